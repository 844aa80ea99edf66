"""Goals whose clock is another machine: measured there by a bundle, or predicted by its layers' times."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.analysis.latency_model.carried import read_model
from compress.analysis.latency_model.layers import layers_of
from compress.errors import UserError
from compress.export.onnx.export import transform_to_onnx
from compress.goals.goal import Goal
from engine.goals.deployed import Deployed, judge_goals
from engine.goals.on_device import check_devices, on_device
from tests.compress.analysis.latency_model.test_carried import MACHINE, device_json
from tests.compress.analysis.latency_model.test_latency_model import Small, X

ROW = {"runtime": "onnxruntime", "network": "network", "error": None, "ratio": 0.4, "ratio_low": 0.38,
       "ratio_high": 0.44, "layers": ["a", "b", "c"], "integer": 2, "precision": "bfloat16"}  # fmt: skip


def results(**changes: Any) -> dict[str, Any]:
    dense = {**ROW, "network": "dense", "ratio": 1.0}
    return {"rows": [dense, {**ROW, **changes}], "how": {"threads": 2, "rounds": 16}, "machine": MACHINE}


def test_the_times_of_measure_py_decide() -> None:
    found = on_device(Goal("latency", at_most=0.5), results())
    assert not isinstance(found, str)
    assert (found.number, found.low, found.high) == (0.4, 0.38, 0.44)
    assert found.noise == pytest.approx(1.57 * 0.06 / 4)
    assert (
        found.note
        == "measured on the device, Other, 2026-01-01 00:00: 16 rounds in turns, 2 threads, floats in bfloat16"
    )
    counted = on_device(Goal("float_layers", at_most=0), results())
    assert not isinstance(counted, str)
    assert (counted.number, counted.noise) == (1, 0)


@pytest.mark.parametrize(("metric", "changes", "said"), [
    ("latency", {"runtime": "ncnn"}, "the device's results are of ncnn, not of onnxruntime"),
    ("latency", {"network": "other"}, "the device's results are of other networks, not of onnxruntime"),
    ("latency", {"error": "out of memory"}, "on the device: out of memory"),
    ("latency", {"wrong": "wrong results: ..."}, "on the device: wrong results: ..."),
    ("latency", {"ratio": None}, "the dense network was not measured on the device in the same runtime"),
    ("float_layers", {"layers": []}, "the network is not quantized"),
    ("float_layers", {"integer": None}, "onnxruntime does not report which layers it computes in integers"),
])  # fmt: skip
def test_what_it_has_no_time_of(metric: str, changes: dict[str, Any], said: str) -> None:
    assert on_device(Goal(metric, at_most=1), results(**changes)) == said


def test_a_goal_for_a_device_is_predicted(tmp_path: Path) -> None:
    """Half the channels, by hand; the prediction is the invented machine's time of the narrower layers."""
    dense, narrow = Small().eval(), Small().eval()
    narrow.first, narrow.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 1)
    narrow.depth, narrow.head = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.Linear(8, 5)
    file, device = tmp_path / "network.onnx", tmp_path / "device.json"
    transform_to_onnx(narrow, file, X, False, check_inputs=X)
    device.write_text(json.dumps(device_json(dense, (X,))))
    subject = Deployed(narrow, file, {}, {}, dense, lambda: "none", (X,), (X,), 1, {})
    goal = Goal("latency", at_most=0.9, device=str(device))
    [row] = judge_goals([goal], subject)["rows"]
    model = read_model(device)
    assert row["value"] == pytest.approx(model.time(layers_of(narrow, (X,))) / model.time(model.layers))
    assert row["verdict"] == "met"
    assert row["noise"] == pytest.approx(row["value"] * model.largest_error)
    assert "predicted by the times of layers on Other (onnxruntime 1.0, 1 thread)" in row["note"]
    [row] = judge_goals([goal], replace(subject, dense_architecture=narrow))["rows"]
    assert row["verdict"] == "not measured"
    assert "another dense network" in row["note"]
    [row] = judge_goals([goal], replace(subject, device=results()))["rows"]
    assert row["value"] == 0.4  # what was measured there counts more than what is predicted


def test_times_of_another_networks_layers_are_refused_before_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "device.json"
    file.write_text(json.dumps(device_json(Small(), (X,))))
    goals = [Goal("psnr", drop_at_most=0.1), Goal("latency", at_most=0.5, device=str(file))]
    check_devices(goals, Small())
    for other in (torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(3, 4, 3)):  # of another input, and of other layers
        with pytest.raises(UserError, match="device.json has the times of another network's layers"):
            check_devices(goals, other)

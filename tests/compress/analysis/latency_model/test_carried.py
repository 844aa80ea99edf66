"""A latency model of another machine: from a device.json whose times are invented, and once from a bundle itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.analysis.latency_model.build import described
from compress.analysis.latency_model.carried import add_layer_table, inputs_of, read_model
from compress.analysis.latency_model.layers import layers_of, without
from compress.analysis.latency_model.plan import evenly, sweeps_of
from compress.errors import UserError
from compress.export.bundle import read_device_results, write_bundle
from compress.export.layer_times import PROFILED
from compress.export.runtimes.table import RUNTIMES
from compress.goals.device import problem_with_device
from compress.thinning.trials.trial import prunable_graph
from tests.compress.analysis.latency_model.test_latency_model import Small, X, invented
from tests.compress.export.carrying import carried

MACHINE = {"cpu": "Other", "machine": "arm", "cores": 4, "system": "Linux", "date": "2026-01-01 00:00"}


def device_json(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """What measure.py writes on the invented machine, whose files take 0.1 ms beside the layers."""
    layers, graph = layers_of(network, inputs), prunable_graph(network, inputs)
    sweeps = [
        {**each.to_dict(), "ms": invented(each.kind, each.widths, each.precision == "int8", 1)}
        for each in sweeps_of(layers, ("float", "int8"))
    ]
    whole = []
    for precision in ("float", "int8"):
        for share in (1.0, 0.5, 0.25):
            now = without(layers, graph, evenly(graph, share))
            widths = [[each.channels_in, each.channels_out] for each in now]
            times = [invented(a.kind, [(a.channels_in, a.channels_out)], precision == "int8", 1)[0] for a in now]
            whole.append({"share": share, "precision": precision, "widths": widths, "ms": 0.1 + sum(times),
                          "bytes": 1000, "params": 100})  # fmt: skip
    table = {"runtime": "onnxruntime", "version": "1.0", "threads": 1, "error": None, "inputs": described(inputs),
             "layers": [each.to_dict() for each in layers], "sweeps": sweeps, "whole": whole}  # fmt: skip
    how = {"threads": 1, "rounds": 15}
    return json.loads(  # type: ignore[no-any-return]
        json.dumps({"run": "r", "machine": MACHINE, "how": how, "rows": [], "layer_table": table})
    )


def test_its_predictions_are_the_other_machines_times(tmp_path: Path) -> None:
    network, file = Small().eval(), tmp_path / "device.json"
    file.write_text(json.dumps(device_json(network, (X,))))
    assert problem_with_device(str(file), "onnxruntime") == ""
    model = read_model(file)
    graph = prunable_graph(network, X)
    [group] = graph.groups(prunable_only=True)
    for int8 in (False, True):
        removed = {group.name: list(range(5))}
        layers = without(model.layers, graph, removed)
        times = [invented(e.kind, [(e.channels_in, e.channels_out)], int8, 1)[0] for e in layers]
        assert model.removed(graph, removed, int8) == pytest.approx(0.1 + sum(times), rel=0.02)
    assert (model.origin["processor"], model.largest_error < 0.02) == ("Other", True)
    [dummy] = inputs_of(model)
    assert (dummy.shape, dummy.dtype) == (X.shape, X.dtype)
    model.check_is_of(layers_of(network, (X,)))
    with pytest.raises(UserError, match="another dense network or input size: it has 4 .*, 3 of them unlike"):
        model.check_is_of(layers_of(network, (torch.rand(1, 3, 9, 9),)))
    model.save(tmp_path / "saved.json")
    assert read_model(tmp_path / "saved.json").to_dict() == model.to_dict()
    assert problem_with_device(str(tmp_path / "saved.json"), "openvino") == (
        f"{tmp_path / 'saved.json'} has the times of onnxruntime, not of openvino"
    )


@pytest.mark.parametrize(("change", "message"), [
    (lambda found: found.pop("layer_table"), "has the times of whole files only; .* --bundle=FOLDER --layer-table"),
    (lambda found: found["layer_table"].update(error="no VNNI"), "the layers were not timed: no VNNI"),
    (lambda found: found["layer_table"]["sweeps"][0].pop("ms"), "is damaged or no latency model: KeyError 'ms'"),
    (lambda found: found["layer_table"]["sweeps"][0]["ms"].pop(), "is damaged or no latency model: ValueError"),
    (lambda found: found["layer_table"]["whole"].clear(), "is damaged or no latency model: StopIteration"),
])  # fmt: skip
def test_what_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    found, file = device_json(Small().eval(), (X,)), tmp_path / "device.json"
    change(found)
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        read_model(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content, said, reason in (
        ("{", "cannot be read as JSON", "cannot be read as JSON"),
        ("[]", "is neither a device.json nor a latency_model.json", "has no times of layers"),
        ("{}", "is damaged or no latency model", "has no times of layers"),
        ('{"rows": [], "layer_table": {"error": "e"}}', "damaged", "the layers were not timed: e"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_model(file)
        assert reason in problem_with_device(str(file), "onnxruntime")
    assert "cannot be read as JSON" in problem_with_device(str(tmp_path / "none.json"), "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", PROFILED)
def test_a_bundle_measures_layers_without_torch_and_onnx(runtime: str, tmp_path: Path) -> None:
    if reason := RUNTIMES[runtime].available():
        pytest.skip(reason)
    network, there = Small().eval(), tmp_path / "device"
    bundle = tmp_path / "bundle"
    assert write_bundle(bundle, {"dense": network}, (X,), [runtime], "r") == []
    assert add_layer_table(bundle, network, (X,), runtime) < 2_000_000
    command, printed = carried(bundle, there)
    assert "layers: 8 of 8" in printed
    read_device_results(there / "device.json", "r")
    model = read_model(there / "device.json")
    model.check_is_of(layers_of(network, (X,)))
    assert 0 < model.time(model.layers) < 1000
    assert model.precisions == ("float", "int8")
    assert problem_with_device(str(there / "device.json"), runtime) == ""
    subprocess.run([*command, "--no-layers"], cwd=tmp_path, capture_output=True, text=True, check=True)
    with pytest.raises(UserError, match="has the times of whole files only"):
        read_model(there / "device.json")

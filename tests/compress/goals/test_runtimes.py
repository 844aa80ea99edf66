"""Which layers of an integer file a runtime computes in float, as a goal counts them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.analysis.diagnosis.files import _in_runtime
from compress.analysis.latency_model.build import measure_latency_model
from compress.analysis.latency_model.kernels import kernel_model
from compress.analysis.latency_model.layers import Kind
from compress.errors import UserError
from compress.export.onnx.export import export_onnx
from compress.export.onnx.session import open_session
from compress.goals import runtimes
from compress.goals.goal import Goal
from compress.goals.latency import measure_ratio
from compress.goals.runtimes import float_layers
from engine.goals.deployed import Deployed, judge_goals
from tests.compress.export.runtimes.broken_packages import ABORTS, REFUSES, BrokenPackage, broken_package
from tests.compress.export.runtimes.test_measure import net, quantized

__all__ = ["broken_package"]


def judged(model: nn.Module, file: Path, inputs: tuple[torch.Tensor, ...]) -> dict[str, object]:
    subject = Deployed(model, file, {}, {}, model, lambda: "none", inputs, inputs, 1, {})
    row: dict[str, object] = judge_goals([Goal("float_layers", at_most=0)], subject)["rows"][0]
    return row


def test_a_layer_that_runs_in_float_misses_the_goal(tmp_path: Path) -> None:
    """The last layer makes the network's output, which is not rounded: 1 of 3, by the report too."""
    example = (torch.rand(1, 3, 9, 9),)
    small, file = quantized(net(), example[0]), tmp_path / "int8.onnx"
    report = export_onnx(small, file, example)
    assert float_layers("onnxruntime", file, example) == (report.float_layers, 3)
    row = judged(small, file, example)
    assert (row["value"], row["verdict"], row["note"]) == (1, "missed", "in float, of 3: 4")


def test_a_float_file_has_none_to_count(tmp_path: Path) -> None:
    example, file = (torch.rand(1, 3, 9, 9),), tmp_path / "float.onnx"
    export_onnx(net(), file, example)
    row = judged(net(), file, example)
    assert row["verdict"] == "not measured"
    assert "holds no 8-bit weights: the network is not quantized" in str(row["note"])
    with pytest.raises(UserError, match="did you mean 'onnxruntime'"):
        float_layers("onxruntime", file, example)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "message"), [
    (ABORTS, r"openvino ended in `\w+` by signal 6 \(SIGABRT\)"),
    (REFUSES, "openvino: libgomp.so.1: cannot open shared object file"),
])  # fmt: skip
def test_a_runtime_that_crashes_is_said_and_nothing_else_ends(
    source: str, message: str, tmp_path: Path, broken_package: BrokenPackage
) -> None:
    broken_package("openvino", source)
    file, x = tmp_path / "net.onnx", torch.rand(2, 4)
    onnx.save(kernel_model(Kind("linear", (2,)), 3, 3, False), file)
    with pytest.raises(UserError, match=message):
        measure_ratio(file, file, (x,), "openvino")
    with pytest.raises(UserError, match=message):
        _in_runtime("openvino", file, ["x"], [(x,)])
    with pytest.raises(UserError, match=message):
        measure_latency_model(nn.Linear(2, 2), (torch.rand(1, 2),), runtime="openvino")


class ComputesOtherwise:
    """A runtime's process that gives ten times what the file does."""

    def __init__(self, name: str) -> None:
        self._ways: dict[str, Any] = {}

    def __enter__(self) -> "ComputesOtherwise":
        return self

    def __exit__(self, *_: object) -> None: ...

    def load(self, key: str, file: str, *_: Any) -> None:
        self._ways[key] = open_session(Path(file))

    def call(self, command: str, *arguments: Any) -> Any:
        if command == "precisions":
            return ["float32"]
        if command == "convert":
            return SimpleNamespace(file=arguments[0].onnx)
        assert command == "run", "nothing is timed or counted"
        session = self._ways[arguments[0]]
        return [10 * np.asarray(each) for each in session.run(None, {session.get_inputs()[0].name: arguments[1][0]})]


def test_a_goal_is_not_met_by_a_runtime_that_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "RuntimeProcess", ComputesOtherwise)
    monkeypatch.setattr(runtimes, "problem_with", lambda _: "")
    file, example = tmp_path / "net.onnx", (torch.rand(2, 4),)
    onnx.save(kernel_model(Kind("linear", (2,)), 3, 3, False), file)
    with pytest.raises(UserError, match=r"openvino on net.onnx: wrong results: the outputs differ"):
        measure_ratio(file, file, example, "openvino")
    model, small = net(), (torch.rand(1, 3, 9, 9),)
    export_onnx(model, file, small)
    subject = Deployed(model, file, {}, {}, model, lambda: "none", small, small, 1, {})
    row = judge_goals([Goal("latency", at_most=5.0, runtime="openvino")], subject)["rows"][0]
    assert row["verdict"] == "not measured"
    assert "wrong results" in row["note"]

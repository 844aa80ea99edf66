"""Networks in runtimes: parity, integer layers, failures as rows, processes that crash or hang."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.export.onnx.check import stored_in_integers
from compress.export.runtimes import measure, sources
from compress.export.runtimes.base import numbers
from compress.export.runtimes.client import OtherSizes, RuntimeFailure, RuntimeModel, RuntimeProcess
from compress.export.runtimes.measure import measure_runtimes
from compress.export.runtimes.onnxruntime import Onnxruntime
from compress.export.runtimes.sources import write_source
from compress.export.runtimes.table import RUNTIMES
from compress.export.runtimes.text import table_text
from compress.export.timing import Timing
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer

QUICK = Timing(rounds=2, seconds=0.001, spread=1e9)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


def quantized(model: nn.Module, example: torch.Tensor) -> nn.Module:
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8, bits_weights=8, per_channel_wts=True, example_inputs=example
    )
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        model.train()(example)
    return model.eval()


def test_float_and_quantized_in_onnxruntime() -> None:
    """Parity is measured again here, in a session of this process; the last layer's output is not rounded: float."""
    example = torch.rand(1, 3, 9, 9)
    small = quantized(net(), example)
    seen: list[torch.Size] = []

    def quality(model: nn.Module) -> Mapping[str, float]:
        output = model(torch.rand(2, 3, 12, 10))  # another size and batch than was timed
        seen.append(output.shape)
        return {"mean": float(output.mean())}

    table = measure_runtimes(
        {"dense": net(), "int8": small}, example, ["onnxruntime"], quality={"int8": quality}, timing=QUICK
    )
    dense, int8 = table.rows
    assert (dense["precision"], dense["ratio"], dense["ratio_onnxruntime"], dense["layers"]) == ("float32", 1, 1, 0)
    assert dense["max"] < 1e-5
    assert int8["error"] is None
    assert int8["layers"] == 3
    assert int8["integer"] == 2
    assert int8["float_layers"] == ["4"]
    assert int8["ms"] > 0
    assert int8["ratio"] == int8["ratio_onnxruntime"]
    assert set(int8["quality"]) == {"mean"}
    assert seen == [torch.Size((2, 2, 6, 4))]
    assert table.how["threads"] == 1
    text = str(table)
    assert "int8, rest float32" in text
    assert "1 of 3 quantized layers run in float: 4" in text


def test_the_integers_that_onnxruntime_runs_are_those_of_its_own_optimized_graph(tmp_path: Any) -> None:
    example = torch.rand(1, 3, 9, 9)
    source = write_source("q", quantized(net(), example), [(example,)], tmp_path, {"onnx"})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(source.onnx, options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    told = Onnxruntime().load(source.onnx, "float32", 1).kernels(source.layers)
    assert told is not None
    assert len(told) == kinds.count("QLinearConv")
    assert source.layers == tuple(stored_in_integers(source.onnx)) == ("0", "2", "4")


@pytest.mark.slow
def test_a_file_of_one_size_is_evaluated_on_what_is_cut_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or, where nothing can be cut, the note says what is missing. The metric is computed again here."""
    monkeypatch.setattr(Onnxruntime, "fixed_sizes", True)
    torch.manual_seed(1)
    example, data, model = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 12, 10), net()

    def quality(x: torch.Tensor) -> measure.Quality:
        return lambda network: {"mean": float(network(x).detach().mean())}

    def cut(shape: Sequence[int]) -> tuple[str, measure.Quality]:
        return "the middle 9 x 9 of 1 of 1 images", quality(data[..., : shape[2], : shape[3]])

    def row(cropped: measure.Cropped) -> dict[str, Any]:
        given: dict[str, Any] = {"quality": {"a": quality(data)}, "cropped": {"a": cropped}}
        return measure_runtimes({"a": model}, example, ["onnxruntime"], timing=QUICK, **given).rows[0]

    found, expected = row(cut), float(model(data[..., :9, :9]).detach().mean())
    assert found["quality"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert found["quality_on"] == "the middle 9 x 9 of 1 of 1 images"
    assert f"evaluated on the middle 9 x 9 of 1 of 1 images; PyTorch's there: mean {expected:.4f}" in found["notes"][0]
    assert f"{expected:.4f} (cropped)" in table_text({"rows": [found], "how": {}})
    nothing = row(lambda shape: None)
    assert nothing["quality"] == {}
    assert nothing["notes"] == [
        "not evaluated: the file takes inputs of (1, 3, 9, 9) and the data has (1, 3, 12, 10); give test data "
        "of that size"
    ]


def test_a_network_that_cannot_be_exported_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UserError("Sequential cannot be exported to ONNX: no operation")

    monkeypatch.setattr(sources, "transform_to_onnx", refuse)
    table = measure_runtimes(net(), torch.rand(1, 3, 9, 9), ["onnxruntime"], timing=QUICK)
    assert table.rows[0]["error"] == "Sequential cannot be exported to ONNX: no operation"
    assert table.rows[0]["ms"] is None
    assert "onnxruntime, network: Sequential cannot be exported" in str(table)


def test_a_failure_of_any_kind_is_the_line_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise AttributeError("'Layer' object has no attribute 'weight'")

    monkeypatch.setattr(sources, "transform_to_onnx", fails)
    table = measure_runtimes(net(), torch.rand(1, 3, 9, 9), ["onnxruntime"], timing=QUICK)
    assert table.rows[0]["error"] == "AttributeError: 'Layer' object has no attribute 'weight'"


@pytest.mark.slow
def test_metrics_that_fail_leave_the_other_rows() -> None:
    def quality(_: nn.Module) -> Mapping[str, float]:
        raise ZeroDivisionError("division by zero")

    given, x = {"a": net(), "b": net()}, torch.rand(1, 3, 9, 9)
    table = measure_runtimes(given, x, ["onnxruntime"], quality={"a": quality}, timing=QUICK)
    assert [row["error"] for row in table.rows] == ["ZeroDivisionError: division by zero", None]
    assert [row["wrong"] for row in table.rows] == ["", ""]


def test_a_missing_one_is_said_with_the_command_and_an_old_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Onnxruntime, "packages", ("no_such_package",))
    table = measure_runtimes(net(), torch.rand(1, 3, 9, 9), ["onnxruntime"], timing=QUICK)
    assert table.rows == []
    assert table.missing[0]["reason"] == (
        "onnxruntime requires no_such_package, not installed: pip install onnxruntime"
    )
    monkeypatch.setattr(Onnxruntime, "packages", ("onnxruntime",))
    monkeypatch.setattr(Onnxruntime, "least", (99,))
    assert "is too old, 99 is needed: pip install -U" in RUNTIMES["onnxruntime"].available()


def test_an_unknown_name_has_its_nearest() -> None:
    with pytest.raises(UserError, match="unknown runtime 'openvin'; did you mean 'openvino'"):
        measure_runtimes(net(), torch.rand(1, 3, 9, 9), ["openvin"])


def test_a_process_that_crashes_is_said_and_starts_again_with_what_it_had_loaded(tmp_path: Any) -> None:
    example = torch.rand(1, 3, 9, 9)
    source = write_source("f", net(), [(example,)], tmp_path, {"onnx"})
    with RuntimeProcess("onnxruntime", 60) as process:
        process.load("a", source.onnx, "float32", 1, [example.numpy()], True)
        assert process._process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeFailure, match=r"onnxruntime ended in `run` by signal 9 \(SIGKILL\)"):
            process.call("run", "a", [example.numpy()])
        (found,) = process.call("run", "a", [example.numpy()])
        torch.testing.assert_close(torch.from_numpy(found), net()(example).detach(), atol=1e-5, rtol=0)
        with pytest.raises(RuntimeFailure, match="onnxruntime: .*Invalid"):  # refused, and it goes on
            process.call("run", "a", [example.numpy()[0]])
        model = RuntimeModel(process, "a", [(1, 3, 9, 9)])
        both = torch.cat([example, example])
        torch.testing.assert_close(model(both), net()(both).detach(), atol=1e-5, rtol=0)
        with pytest.raises(OtherSizes, match=r"inputs of \(1, 3, 9, 9\) and the data has \(1, 3, 8, 8\)"):
            model(torch.rand(1, 3, 8, 8))


def test_a_process_that_hangs_is_ended() -> None:
    with RuntimeProcess("onnxruntime", 0.01) as process:
        with pytest.raises(RuntimeFailure, match=r"did not finish `precisions` within 0.01 s and was ended"):
            process.call("precisions", False)
        assert process._process is None


def test_a_quantized_recurrent_layer_has_no_weight_that_runs_in_integers() -> None:
    """It has several weights; only what reads its output is counted."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(n, t, 3) -> (n, t, 2)."""
            return self.head(self.lstm(x)[0])  # type: ignore[no-any-return]

    assert sources._quantized_layers(quantized(Recurrent(), torch.rand(1, 5, 3))) == ["head"]


def test_numbers_of_versions() -> None:
    assert numbers("2026.4.1") == (2026, 4, 1)
    assert numbers("?") > (10**6,)


def test_openvino_reads_our_integers() -> None:
    pytest.importorskip("openvino")
    example = torch.rand(1, 3, 9, 9)
    small = quantized(net(), example)
    table = measure.measure_runtimes({"dense": net(), "int8": small}, example, ["openvino"], timing=QUICK)
    exact = [row for row in table.rows if row["precision"] == "float32"]
    assert [row["network"] for row in exact] == ["dense", "int8"]
    assert exact[0]["max"] < 1e-5
    assert exact[1]["max"] < 0.02 * exact[1]["largest"]
    assert exact[1]["integer"] >= 2


class _Wrong(RuntimeModel):
    def outputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [10 * each for each in super().outputs(inputs)] if "int8" in self._key else super().outputs(inputs)


def test_a_wrong_row_has_no_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RuntimeModel", _Wrong)
    example = torch.rand(1, 3, 9, 9)
    dense, int8 = measure_runtimes(
        {"dense": net(), "int8": quantized(net(), example)}, example, ["onnxruntime"], timing=QUICK
    ).rows
    assert (dense["wrong"], dense["ratio"], dense["ratio_onnxruntime"]) == ("", 1, 1)
    assert int8["ms"] > 0
    assert (int8["ratio"], int8["ratio_onnxruntime"]) == (None, None)
    assert "wrong results" in int8["wrong"]

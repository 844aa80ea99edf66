"""Each runtime runs a float and a quantized network as PyTorch does, with the trained integers; skipped if missing."""

import pytest
import torch
from torch import nn

from compress.export.runtimes.measure import measure_runtimes
from compress.export.runtimes.table import RUNTIMES
from compress.export.runtimes.tensorrt import Tensorrt, trtexec_command
from compress.export.timing import Timing
from tests.compress.export.runtimes.test_measure import net, quantized

QUICK = Timing(rounds=2, seconds=0.001, spread=1e9)
BOUNDS = {"executorch": 0.01, "litert": 0.01, "ncnn": 0.02}  # of the largest value, int8; ncnn keeps 7 bits


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_it_runs_what_was_trained(name: str) -> None:
    reason = RUNTIMES[name].available()
    if reason:
        pytest.skip(reason)
    example = torch.rand(1, 3, 12, 12)
    torch.manual_seed(0)
    model = nn.Sequential(net(), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
    small = quantized(nn.Sequential(net(), nn.ReLU(), nn.Conv2d(2, 2, 1)), example)
    table = measure_runtimes({"dense": model, "int8": small}, example, [name], timing=QUICK)
    dense, int8 = table.rows
    assert dense["error"] is None
    assert dense["max"] < 1e-4 * dense["largest"]
    assert int8["error"] is None
    assert int8["mean"] < BOUNDS[name] * int8["largest"]
    assert int8["layers"] == 4
    assert int8["integer"] >= 3
    assert int8["ms"] > 0
    assert bool(int8["notes"]) == (name == "ncnn")


@pytest.mark.slow
def test_core_ml_is_converted_and_not_run_here() -> None:
    reason = RUNTIMES["coreml"].available()
    if reason:
        pytest.skip(reason)
    example = torch.rand(1, 3, 12, 12)
    (row,) = measure_runtimes(net(), example, ["coreml"], timing=QUICK).rows
    assert row["bytes"] > 0
    assert "Core ML runs on macOS only" in row["error"]


def test_the_command_of_trtexec() -> None:
    words = trtexec_command("net.onnx", [(1, 3, 8, 8), (1, 4)], ["x", "y"], "float16")
    assert words[:3] == ["trtexec", "--onnx=net.onnx", "--shapes=x:1x3x8x8,y:1x4"]
    assert "--fp16" in words
    assert "--int8" in words
    assert "--fp16" not in trtexec_command("net.onnx", [(1, 3)], ["x"], "float32")


def test_tensorrt_says_what_is_missing() -> None:
    if "TensorrtExecutionProvider" in str(Tensorrt().available()):
        assert "pip install onnxruntime-gpu tensorrt, on an NVIDIA GPU" in Tensorrt().available()


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "tensorrt"])
def test_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available() or RUNTIMES[name].available():
        pytest.skip(RUNTIMES[name].available() or "no NVIDIA GPU")
    example = torch.rand(1, 3, 12, 12)
    small = quantized(net(), example)
    for row in measure_runtimes({"dense": net(), "int8": small}, example, [name], timing=QUICK).rows:
        assert row["error"] is None
        assert row["mean"] < 0.02 * row["largest"]

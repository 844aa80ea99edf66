"""Weights of 4 bits in the file that goals are measured on."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.goals.goal import Goal
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from engine.goals.packing import export_packed, packed_format

BYTES, TIME = Goal("file_bytes", at_most=9), Goal("latency", at_most=0.5)
X = torch.rand(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))


def network(bits: int) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1)).eval()
    settings = {"per_channel_wts": True, "overrides": {"0": {"bits_weights": bits}}}
    return PostTrainLinearQuantizer(**settings, example_inputs=X).quantize(net, [X])  # type: ignore[arg-type]


def test_a_goal_on_bytes_packs_weights_of_4_bits() -> None:
    assert packed_format([TIME, BYTES], network(4)) == "int4"
    assert packed_format([BYTES], network(8)) == ""
    assert packed_format([TIME], network(4)) == ""
    assert packed_format([BYTES], nn.Conv2d(1, 1, 1)) == ""


@pytest.mark.slow
def test_the_packed_file_is_smaller_and_computes_the_same(tmp_path: Path) -> None:
    import onnxruntime

    net, sizes, outputs = network(4), [], []
    for name, goals in (("wide", [TIME]), ("packed", [BYTES])):
        file = tmp_path / f"{name}.onnx"
        export_packed(goals, net, file, (X,), [(X,)])
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        outputs.append(torch.from_numpy(session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]))
        sizes.append(file.stat().st_size)
    saved = 16 * 64 * 9 / 2  # half a byte a weight of the first layer
    assert saved - 200 < sizes[0] - sizes[1] < saved + 200
    with torch.no_grad():
        right = net(X)
    for output in outputs:
        assert (output - right).abs().max() <= 0.02 * right.abs().max()

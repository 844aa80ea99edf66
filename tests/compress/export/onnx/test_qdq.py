"""A network quantized after training, with folded BatchNorms, as an ONNX file of integers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import compress.export.onnx.export
from compress.errors import UserError
from compress.export.onnx.export import transform_to_onnx
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from tests.compress.harness import tiny_net


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_file_is_the_quantized_network(tmp_path: Path, per_channel: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    net = tiny_net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.uniform_(0.3, 3, generator=draw)
            module.weight.data.uniform_(-1, 2, generator=draw)
            module.bias.data.normal_(generator=draw)
    batches = [torch.randn(8, 3, 6, 6, generator=draw)]
    settings = {"per_channel_wts": per_channel, "equalization": True, "bias_correction": True}
    network = PostTrainLinearQuantizer(**settings).quantize(net.eval(), batches)  # type: ignore[arg-type]
    report = transform_to_onnx(network, tmp_path / "it.onnx", torch.zeros(1, 3, 6, 6), True, "qdq", batches)
    assert [(each.name, each.stored) for each in report.weights] == [(n, "int8") for n in ("conv1", "conv2", "fc")]
    assert max(each.error for each in report.weights) < 1e-6
    assert "BatchNormalization" not in report.nodes
    weights = [each for each in onnx.load(tmp_path / "it.onnx").graph.initializer if len(each.dims) > 1]
    assert {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    with torch.no_grad():
        size = float(network(batches[0]).abs().max())
    assert report.unfused is not None
    assert report.unfused.max <= 0.03 * size  # a tie rounded the other way here and there


class Twice(nn.Module):
    """One layer, called twice, and its output returned beside that of the norm behind the first call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return self.layer(torch.relu(self.norm(y))), y


@pytest.mark.parametrize(
    ("make", "per_channel"),
    [
        (lambda: nn.Conv2d(4, 4, 3, padding=1), True),
        (lambda: nn.Linear(6, 6), True),
        pytest.param(lambda: nn.Conv2d(4, 4, 3, padding=1), False, marks=pytest.mark.slow),
        pytest.param(lambda: nn.Linear(6, 6, bias=False), False, marks=pytest.mark.slow),
        pytest.param(lambda: nn.ConvTranspose2d(4, 4, 3, 1, 1), False, marks=pytest.mark.slow),
    ],
)
def test_a_layer_that_is_called_twice_is_exported(
    tmp_path: Path, make: Callable[[], nn.Module], per_channel: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    network = PostTrainLinearQuantizer(per_channel_wts=per_channel).quantize(Twice(make()).eval(), [x])
    report = transform_to_onnx(network, tmp_path / "it.onnx", torch.zeros(1, 4, 6, 6), True, "qdq", [x])
    assert report.difference.mean < 1e-3 * report.difference.largest
    dequantized = [
        each.input[0] for each in onnx.load(tmp_path / "it.onnx").graph.node if each.op_type == "DequantizeLinear"
    ]
    assert len(dequantized) == len(set(dequantized))


@pytest.mark.parametrize("step", ["check_file", "kernel_kinds", "Comparison"])
def test_no_refused_file_is_left_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(file: Path, *_: Any, **__: Any) -> None:
        assert file.is_file()
        raise UserError(f"onnxruntime refuses {file}: a reason")

    monkeypatch.setattr(compress.export.onnx.export, step, refuse)
    net, file = nn.Linear(2, 2), tmp_path / "it.onnx"
    for before in (None, b"the one before"):
        if before is not None:
            file.write_bytes(before)
        with pytest.raises(UserError, match=r"refuses \S+/it\.onnx: a reason; nothing was written"):
            transform_to_onnx(net, file, torch.zeros(1, 2), False)
        assert [each.name for each in tmp_path.iterdir()] == ([] if before is None else ["it.onnx"])
    assert file.read_bytes() == b"the one before"

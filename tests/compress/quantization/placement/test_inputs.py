"""What a layer reads: which operations leave what a ReLU made free of negative values."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export.onnx.export import export_onnx
from compress.quantization.placement.inputs import read_graph
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer

Operation = Callable[[Tensor, Tensor], Tensor]

NON_NEGATIVE: dict[str, Operation] = {
    "a + b": lambda a, b: a + b,
    "a + 2 b": lambda a, b: torch.add(a, b, alpha=2),
    "a * b": lambda a, b: a * b,
    "linear": lambda a, b: functional.interpolate(a.flatten(2), scale_factor=2, mode="linear"),
    "bilinear": lambda a, b: functional.interpolate(a, scale_factor=2, mode="bilinear"),
    "trilinear": lambda a, b: functional.interpolate(a[:, :, None], scale_factor=2, mode="trilinear"),
    "zero padding": lambda a, b: functional.pad(a, (1, 1, 1, 1)),
    "padding by itself": lambda a, b: functional.pad(a, (1, 1, 1, 1), mode="reflect"),
}
SIGNED: dict[str, Operation] = {
    "a - b": lambda a, b: a - b,
    "b - a": lambda a, b: torch.rsub(a, b),
    "a - b by add": lambda a, b: torch.add(a, b, alpha=-1),
    "a - b in place": lambda a, b: a.add_(b, alpha=-1),
    "a - a number by add": lambda a, b: torch.add(a, 1.0, alpha=-1),
    "a * a negative number": lambda a, b: a * -1.0,
    "bicubic": lambda a, b: functional.interpolate(a, scale_factor=2, mode="bicubic"),
    "padding below zero": lambda a, b: functional.pad(a, (1, 1, 1, 1), value=-1.0),
    "constant padding below zero": lambda a, b: torch.constant_pad_nd(a, [1, 1, 1, 1], -1.0),
}


class Reads(nn.Module):
    """A layer behind an operation on two ReLUs."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation, self.read = operation, nn.Linear(1, 1)

    def between(self, x: Tensor) -> Tensor:
        return self.operation(torch.relu(x), torch.relu(-x))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.between(x)[..., None])


@pytest.mark.parametrize("name", [*NON_NEGATIVE, *SIGNED])
def test_signed_is_what_can_be_negative(name: str) -> None:
    net, x = Reads({**NON_NEGATIVE, **SIGNED}[name]), torch.randn(2, 3, 6, 6)
    (reading,) = read_graph(net, x, ["read"], [], []).readings["read"]
    assert reading.signed == (name in SIGNED)
    assert bool((net.between(x) < 0).any()) == (name in SIGNED)


class Again(nn.Module):
    """conv(act(conv(x))): the convolution reads the network's input and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.out = nn.Conv2d(3, 3, 3, padding=1), nn.PReLU(), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.conv(self.act(self.conv(x)))))


def test_what_a_layer_reads_is_rounded_once(tmp_path: Path) -> None:
    """Expected: onnxruntime, which makes one rounding of two that follow each other."""
    torch.manual_seed(0)
    net, x = Again().eval(), torch.randn(4, 3, 8, 8)
    quantizer = PostTrainLinearQuantizer(round_results="none")  # a result's rounding may fall to the next step
    quantized = quantizer.quantize(net, [x])
    assert quantizer.bits_table() == {"conv": "W8 A8", "out": "W8 A8"}
    assert quantizer.left_float["act"] == "the layers that read it round it"
    export_onnx(quantized, tmp_path / "net.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        wanted, dense = quantized(x), net(x)
    assert (torch.from_numpy(found) - wanted).norm() < 2e-3 * wanted.norm()
    assert (wanted - dense).norm() < 0.03 * dense.norm()

"""Layers of classes derived from torch's: those that only pad are quantized as torch's own, others stay float."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.quantization.convert import apply, structure_of
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.layers import QuantConv2d, QuantLayer, channel_axis
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat

IMAGES = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Same(nn.Conv2d):
    """Pads as much as its weight's size and the image's ask for, by functions."""

    def forward(self, input: Tensor) -> Tensor:
        more = self.weight.shape[-1] - 1
        padded = functional.pad(input, (more // 2, more - more // 2, more // 2, more - more // 2))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ByModule(nn.Conv2d):
    """Pads by a module that it makes when it is called first, and reflects."""

    pad: nn.Module | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pad = None

    def forward(self, input: Tensor) -> Tensor:
        if self.pad is None:
            self.pad = nn.ReflectionPad2d(1)
        return functional.conv2d(self.pad(input), self.weight, self.bias)


class Named(nn.Conv2d):
    """A constructor of its own and nothing else."""

    def __init__(self, before: int, after: int, size: int = 3) -> None:
        super().__init__(before, after, size, padding=size // 2)


class Rectangle(nn.Conv2d):
    """The computation that `forward` calls is another."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(functional.pad(input, (2, 0, 1, 1)), weight, bias)


class Up(nn.ConvTranspose2d):
    """A transposed convolution of a size of its own."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(functional.pad(input, (0, 0)), output_size)


class Standardised(nn.Conv2d):
    """Another weight than it holds."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(input, weight, self.bias, padding=1)


class Scaled(Same):
    """More than a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return 0.5 * super().forward(input)


class Widened(Same):
    """Pads with what is no zero, which no grid has to hold."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(input, (1, 1, 1, 1), value=0.3), self.weight, self.bias)


class Twice(Same):
    """Two convolutions in one call."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


class Masked(Same):
    """Changes its weight before it computes."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.1)
        return super().forward(input)


class InTraining(Same):
    """Computes more, but in training only."""

    def forward(self, input: Tensor) -> Tensor:
        result = super().forward(input)
        return result.tanh() if self.training else result


def network(middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


def plain(module: Any) -> nn.Sequential:
    """The same computation by torch's own classes."""
    pads: dict[type, nn.Module] = {
        Same: nn.ZeroPad2d(1), ByModule: nn.ReflectionPad2d(1), Named: nn.ZeroPad2d(1), Up: nn.Identity(),
        Rectangle: nn.ZeroPad2d((2, 0, 1, 1)),
    }  # fmt: skip
    inner: Any = nn.ConvTranspose2d(8, 8, 3) if isinstance(module, Up) else nn.Conv2d(8, 8, 3)
    inner.load_state_dict(module.state_dict())
    return nn.Sequential(pads[type(module)], inner)


PADDING = (Same, ByModule, Named, Rectangle, Up)
OTHERS = (Standardised, Scaled, Widened, Twice, Masked)


@pytest.mark.parametrize("cls", PADDING)
def test_what_only_pads_is_quantized_as_torchs_own(cls: Any) -> None:
    own, quantizer = network(cls(8, 8, 3)), Ptq(per_channel_wts=True)
    torchs = copy.deepcopy(own)
    torchs[2] = plain(own[2])
    found, expected = quantizer.quantize(own, [IMAGES]), Ptq(per_channel_wts=True).quantize(torchs, [IMAGES])
    assert quantizer.left_float == {}
    assert quantizer._norms["2"] == "3"
    assert torch.equal(found(IMAGES), expected(IMAGES))
    assert isinstance(found[2], QuantLayer)
    assert isinstance(found[2], cls)
    assert channel_axis(own[2]) == int(cls is Up)


@pytest.mark.parametrize("cls", OTHERS)
def test_what_does_more_stays_float_and_is_named(cls: Any) -> None:
    own, quantizer = network(cls(8, 8, 3, padding=1 if cls is Standardised else 0)), Ptq()
    found = quantizer.quantize(own, [IMAGES])
    assert type(found[2]) is cls
    assert "more than pad" in quantizer.left_float["2"]
    assert (found(IMAGES) - own.eval()(IMAGES)).norm() < 0.05 * own(IMAGES).norm()


def test_training_mode_counts() -> None:
    own = network(InTraining(8, 8, 3))
    ptq, qat = Ptq(), Qat(8, 8, example_inputs=IMAGES)
    assert isinstance(ptq.quantize(own, [IMAGES])[2], QuantLayer)
    qat.prepare(own, None)
    assert "more than pad" in qat.left_float["2"]


def test_without_a_trace_what_is_inherited_is_known() -> None:
    own, quantizer = network(Named(8, 8)), Qat(8, 8)
    own[5] = Same(8, 4, 3)
    quantizer.prepare(own, None)
    quantizer.convert(own)
    assert isinstance(own[2], QuantConv2d)
    assert type(own[5]) is Same
    assert "only a trace" in quantizer.left_float["5"]


@pytest.mark.parametrize("cls", [Qat, LSQQuantizer])
def test_training_and_evaluation_compute_the_same(cls: Any) -> None:
    own = network(Same(8, 8, 3))
    own[3] = nn.Identity()
    quantizer = cls(bits_weights=4, bits_activations=4, example_inputs=IMAGES)
    optimizer = torch.optim.SGD(own.parameters(), 1e-3)
    quantizer.prepare(own, optimizer)
    quantizer.convert(own)
    own.train()(IMAGES).square().mean().backward()
    assert all(each.grad is not None for each in own.parameters())
    quantizer.freeze(own)
    assert torch.equal(own(IMAGES), own.eval()(IMAGES))


def test_copied_pickled_and_rebuilt() -> None:
    own = network(Same(8, 8, 3))
    found = Ptq().quantize(own, [IMAGES])
    fresh = network(Same(8, 8, 3))
    rebuilt = apply(fresh, structure_of(found)).eval()
    rebuilt.load_state_dict(found.state_dict())
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), rebuilt):
        assert type(other[2]) is type(found[2])
        assert torch.equal(other(IMAGES), found(IMAGES))


def test_a_weight_shared_with_a_layer_that_does_more_stays_float() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.own, self.torchs = nn.Conv2d(3, 8, 3), Scaled(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.torchs.weight = self.own.weight

        def forward(self, input: Tensor) -> Tensor:
            result: Tensor = self.torchs(self.own(self.first(input)))
            return result

    quantizer = Ptq()
    found = quantizer.quantize(Tied(), [IMAGES])
    assert type(found.torchs) is nn.Conv2d
    assert "own computes with its weight itself" in quantizer.left_float["torchs"]

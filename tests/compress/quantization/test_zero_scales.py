"""`fold_batchnorm` where a gamma is 0 or next to it: gradients of the unfolded form, and training gets out."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.quantization.base import Quantizer
from compress.quantization.layers import LateFrozen, QuantLayer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual branch whose last norm starts at zero."""

    def __init__(self, gamma: float, variance: float) -> None:
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.bn_b = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        with torch.no_grad():
            self.bn_b.weight[:2] = gamma
            assert self.bn_b.running_var is not None
            self.bn_b.running_var[:2] = variance

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn_b(self.b(torch.relu(self.bn_a(self.a(x)))))


def folded(
    net: nn.Module, cls: Any, bits: int, per_channel: bool
) -> tuple[nn.Module, torch.optim.Optimizer, Quantizer]:
    settings = {"bits_weights": bits, "bits_activations": 32, "fold_batchnorm": True, "per_channel_wts": per_channel}
    settings |= {"step_lr": 1e-4} if cls is LSQQuantizer else {}
    quantizer = cls(**settings, example_inputs=X)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    quantizer.prepare(net, optimizer)
    quantizer.convert(net)
    return net, optimizer, quantizer


def loss(net: nn.Module, x: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    return (net(x) * weights.sin()).sum() / 50 + net(x).square().mean()


KINDS = [(cls, per_channel) for cls in (Qat, LSQQuantizer) for per_channel in (False, True)]


def each_kind(scales: list[Any]) -> list[Any]:
    """Every scale with every kind; one kind of each in the quick tier."""
    return [
        pytest.param(*kind, scale, marks=[] if (i + j) % 4 == 0 else pytest.mark.slow)
        for i, kind in enumerate(KINDS)
        for j, scale in enumerate(scales)
    ]


@pytest.mark.parametrize(
    ("cls", "per_channel", "scale"), each_kind([(0.0, 1.0), (1e-9, 1.0), (0.0, 0.0), (-0.0, 3.0), (-1e-30, 0.0)])
)
def test_gradients_are_those_of_the_unfolded_form(cls: Any, per_channel: bool, scale: tuple[float, float]) -> None:
    torch.manual_seed(0)
    net = Block(*scale)
    twin = copy.deepcopy(net).double().train()
    loss(twin, X.double()).backward()
    net, _, _ = folded(net, cls, 16, per_channel)
    loss(net.train(), X).backward()
    tolerance = 1e-3 if cls is Qat else 3e-2  # LSQ's first step of 16 bits is 1 / 90 of the mean weight
    for name, parameter in twin.named_parameters():
        wanted, found = parameter.grad, net.get_parameter(name).grad
        assert wanted is not None
        assert found is not None
        torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=tolerance * float(wanted.abs().max()) + 1e-8)
    assert float(net.get_parameter("bn_b.weight").grad[:2].abs().min()) > 1e-3  # type: ignore[index]


@pytest.mark.parametrize(("cls", "per_channel", "gamma"), each_kind([0.0, 1e-7]))
def test_training_leaves_zero(cls: Any, per_channel: bool, gamma: float) -> None:
    torch.manual_seed(0)
    net, optimizer, _ = folded(Block(gamma, 1.0), cls, 4, per_channel)
    target = X.roll(1, 1)
    for _ in range(40):
        optimizer.zero_grad()
        (net.train()(X) - target).square().mean().backward()
        optimizer.step()
    layer: Any = net.get_submodule("b")
    assert float(net.get_parameter("bn_b.weight").detach().abs().min()) > 0.1
    assert bool((layer.eval().quantized_weight().abs().amax((1, 2, 3)) > 0).all())  # not only the float weight works
    with torch.no_grad():
        assert (net.eval()(X) - target).square().mean() < 0.9 * (X - target).square().mean()


@pytest.mark.parametrize("cls", [Qat, LSQQuantizer])
@pytest.mark.parametrize("gamma", [0.0, 1e-9])
def test_training_with_held_norms_is_evaluation(cls: Any, gamma: float) -> None:
    net, _, quantizer = folded(Block(gamma, 1.0), cls, 4, False)
    net.train()(X)
    quantizer.freeze(net)
    assert all(not each.training for each in net.train().modules() if isinstance(each, LateFrozen))
    trained = net.train()(X)
    torch.testing.assert_close(net.eval()(X), trained, rtol=1e-5, atol=1e-6)


def test_a_masked_weight_stays_zero_in_such_a_channel() -> None:
    net, _, _ = folded(Block(0.0, 1.0), Qat, 4, True)
    with torch.no_grad():
        net.get_parameter("b.weight")[0, 1:] = 0
    layer = net.train().get_submodule("b")
    assert isinstance(layer, QuantLayer)
    assert not layer.quantized_weight()[0, 1:].any()
    assert not layer.eval().quantized_weight()[0].any()  # what is exported

"""A BatchNorm is folded only where layer, weight and norm have one use each and the norm is of the layer's channels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from compress.errors import UserError
from compress.quantization.convert import structure_of
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.layers import QuantConv2d
from compress.quantization.post_training.equalization import find_pairs
from compress.quantization.post_training.folding import fold_batch_norms, same_outputs
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat


class Net(nn.Module):
    """conv -> norm -> relu -> out, the first part as a subclass says; `other` is there for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.out = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.body(x)))


class TwoConvolutions(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(self.other(x))


class NormElsewhere(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(x)


class OutputElsewhere(Net):
    def body(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + 0.1 * y


class CalledTwice(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x)


class TiedWeight(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other.weight = self.conv.weight

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.other(x)


class TiedBias(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other.bias = self.conv.bias

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.other(x)


class WeightElsewhere(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + functional.conv2d(x, self.conv.weight, padding=1)


class ScaleElsewhere(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.norm.weight.reshape(1, 4, 1, 1)


class TwoNorms(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm2d(4)
        self.second.weight = self.norm.weight

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.second(self.other(x))


class OtherInTraining(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.other(x)) + self.conv(x) if self.training else self.norm(self.conv(x))


class Viewed(Net):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).transpose(1, 2))


class Subclass(nn.Conv2d):
    """Not a convolution whose weight is what it says."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, 2 * self.weight, self.bias, padding=1)


def exchanged(conv: Callable[[], nn.Module], norm: Callable[[], nn.Module] = lambda: nn.BatchNorm2d(4)) -> nn.Module:
    net = Net()
    net.conv, net.norm = conv(), norm()  # type: ignore[assignment]
    return net


def plain() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Frozen(nn.BatchNorm2d):
    """Another function than a BatchNorm's."""

    def forward(self, input: Tensor) -> Tensor:
        return 0.5 * super().forward(input)


class Tokens(nn.Module):
    """(N, tokens, features): the norm is of tokens."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(features, features), nn.BatchNorm1d(tokens), nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.fc(x))))


class Unbatched(nn.Module):
    """A convolution of (C, L), whose norm takes C for the batch and L for channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)))


IMAGES, ROWS = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1)), torch.randn(6, 4, 4)
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, str]]] = {
    "alone": (Net, IMAGES, {"conv": "norm"}),
    "norm behind two": (TwoConvolutions, IMAGES, {}),
    "norm elsewhere": (NormElsewhere, IMAGES, {}),
    "output elsewhere": (OutputElsewhere, IMAGES, {}),
    "called twice": (CalledTwice, IMAGES, {}),
    "tied weight": (TiedWeight, IMAGES, {}),
    "tied bias": (TiedBias, IMAGES, {}),
    "weight elsewhere": (WeightElsewhere, IMAGES, {}),
    "scale elsewhere": (ScaleElsewhere, IMAGES, {}),
    "two norms, one scale": (TwoNorms, IMAGES, {}),
    "viewed": (Viewed, torch.randn(3, 4, 4, 4), {}),
    "subclass": (lambda: exchanged(lambda: Subclass(4, 4, 3, padding=1)), IMAGES, {}),
    "weight norm": (lambda: exchanged(lambda: parametrizations.weight_norm(plain())), IMAGES, {}),
    "old weight norm": (lambda: exchanged(lambda: weight_norm(plain())), IMAGES, {}),
    "spectral norm": (lambda: exchanged(lambda: parametrizations.spectral_norm(plain())), IMAGES, {}),
    "lazy": (lambda: exchanged(lambda: nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d), IMAGES, {"conv": "norm"}),
    "norm subclass": (lambda: exchanged(plain, lambda: Frozen(4)), IMAGES, {}),
    "synchronised": (lambda: exchanged(plain, lambda: nn.SyncBatchNorm(4)), IMAGES, {}),
    "without statistics": (
        lambda: exchanged(plain, lambda: nn.BatchNorm2d(4, track_running_stats=False)), IMAGES, {}),
    "not affine": (lambda: exchanged(plain, lambda: nn.BatchNorm2d(4, affine=False)), IMAGES, {"conv": "norm"}),
    "grouped transposed": (lambda: exchanged(lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)), IMAGES, {}),
    "grouped": (lambda: exchanged(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2)), IMAGES, {"conv": "norm"}),
    "tokens": (lambda: Tokens(5, 8), torch.randn(6, 5, 8), {}),
    "as many tokens as features": (lambda: Tokens(8, 8), torch.randn(6, 8, 8), {}),
    "features": (lambda: Tokens(8, 8), torch.randn(6, 8), {"fc": "norm"}),
    "unbatched": (Unbatched, torch.randn(4, 4), {}),
}  # fmt: skip


def lived_in(net: nn.Module, x: Tensor) -> nn.Module:
    """With statistics and scales as after training."""
    torch.manual_seed(3)
    with torch.no_grad():
        net.train()(x)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.copy_(torch.randn(tensor.shape) + (0.2 if tensor is module.weight else 0))
                if module.running_var is not None:
                    module.running_var.copy_(torch.rand(module.running_var.shape) * 3 + 0.1)
    return net.eval()


QUICK = {"alone", "norm behind two", "norm elsewhere", "tied weight", "subclass", "weight norm", "tokens"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETS])
def test_post_training_folds_where_it_may_and_stays_near(name: str) -> None:
    make, x, folded = NETS[name]
    torch.manual_seed(0)
    net = lived_in(make(), x)
    quantizer = Ptq(equalization=True, per_channel_wts=True, example_inputs=x)
    network = quantizer.quantize(net, [x])
    assert quantizer._norms == folded
    expected = net(x)
    assert (network(x) - expected).norm() < 0.05 * expected.norm()
    assert not any("nothing is folded" in note for note in quantizer.notes)  # which is the net below the rope


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Qat, "alone"),
        (LSQQuantizer, "norm behind two"),
        (Qat, "tied weight"),
        (LSQQuantizer, "tokens"),
        *(
            pytest.param(cls, name, marks=pytest.mark.slow)
            for cls in (Qat, LSQQuantizer)
            for name in ("subclass", "features", "lazy")
        ),
    ],
)
def test_quantizers_in_training_fold_where_they_may(cls: Any, name: str) -> None:
    make, x, folded = NETS[name]
    net = lived_in(make(), x)
    quantizer = cls(bits_weights=4, bits_activations=8, fold_batchnorm=True, example_inputs=x)
    assert quantizer.faults(net) == []
    quantizer.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    quantizer.convert(net)
    assert structure_of(net)["folded"] == folded
    net.train()(x).sum().backward()


def test_training_mode_counts_for_those_who_train_only() -> None:
    net = lived_in(OtherInTraining(), IMAGES)
    qat = Qat(bits_weights=4, bits_activations=8, fold_batchnorm=True, example_inputs=IMAGES)
    assert qat.faults(net) == []
    qat.prepare(net, None)
    assert qat.structure is not None
    assert qat.structure["folded"] == {}
    ptq = Ptq(example_inputs=IMAGES)
    ptq.quantize(net, [IMAGES])
    assert ptq._norms == {"conv": "norm"}


class BySize(Net):
    """Another layer in front of the norm for large images: the trace sees one of the two."""

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.other(x) if x.shape[-1] > 6 else self.conv(x))


def test_folding_that_calibration_data_disprove_is_taken_back() -> None:
    net, large = lived_in(BySize(), IMAGES), torch.randn(2, 4, 9, 9)
    quantizer = Ptq(example_inputs=IMAGES)
    network = quantizer.quantize(net, [IMAGES, large])
    assert any("nothing is folded" in note for note in quantizer.notes)
    for x in (IMAGES, large):
        assert (network(x) - net(x)).norm() < 0.05 * net(x).norm()


def test_all_example_calls_count() -> None:
    quantizer = Qat(8, 8, fold_batchnorm=True, example_inputs=[IMAGES, torch.randn(2, 4, 9, 9)])
    quantizer.prepare(BySize(), None)
    assert quantizer.structure is not None
    assert quantizer.structure["folded"] == {}


def test_outputs_that_do_not_repeat_judge_nothing() -> None:
    noise = nn.Dropout(0.5).train()
    assert same_outputs(noise, nn.Identity(), [torch.ones(8, 8)])
    assert not same_outputs(nn.Identity(), nn.ReLU(), [torch.randn(8, 8)])


def test_a_subclass_keeps_its_norm_and_stays_float() -> None:
    net = lived_in(NETS["subclass"][0](), IMAGES)
    quantizer = Ptq(example_inputs=IMAGES)
    network = quantizer.quantize(net, [IMAGES])
    assert type(network.conv) is Subclass
    assert isinstance(network.out, QuantConv2d)
    assert "more than pad its input" in quantizer.left_float["conv"]


def test_layers_without_weights_yet_are_named() -> None:
    net = exchanged(lambda: nn.LazyConv2d(4, 3, padding=1))
    message = "conv is a LazyConv2d without weights yet: run the network on one batch first"
    assert Qat(8, 8).faults(net) == [message]
    with pytest.raises(UserError, match=message):
        Ptq().quantize(net, [IMAGES])


class Mixed(nn.Module):
    """Channels of a convolution that a linear layer, or a linear layer's that a convolution, would read wrongly."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("first", "second", "x", "paired"),
    [
        (nn.Conv1d(4, 4, 1), nn.Linear(4, 4), torch.randn(2, 4, 4), False),
        (nn.Linear(4, 4), nn.Conv1d(4, 4, 1), torch.randn(2, 4, 4), False),
        (nn.Linear(4, 4), nn.Linear(4, 4), torch.randn(2, 4, 4), True),
        (nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1), torch.randn(4, 4), True),
        (nn.Conv1d(4, 4, 1), nn.Sequential(nn.Flatten(1), nn.Linear(16, 4)), torch.randn(2, 4, 4), True),
    ],
)
def test_equalization_pairs_layers_of_the_same_dimension(first: Any, second: Any, x: Tensor, paired: bool) -> None:
    assert bool(find_pairs(Mixed(first, second), x, {})) is paired


def test_folding_by_hand() -> None:
    net = lived_in(Net(), IMAGES)
    before = net(IMAGES)
    fold_batch_norms(net, {"conv": "norm"})
    torch.testing.assert_close(net(IMAGES), before, rtol=1e-4, atol=1e-5)

"""Quantized layers take over the float ones' tensors; structure is data that rebuilds them; folding is exact."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.quantization.base import Quantizer
from compress.quantization.convert import apply, structure_of, weights_read
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.modules.activations import ACTIVATIONS, QuantActivation
from compress.quantization.modules.layers import LAYERS, QuantLayer
from compress.quantization.modules.norms import NORMS, LateFrozen
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer as Qat
from tests.compress.harness import tiny_net

WEIGHT = {"class": "RangeWeight", "bits": 16, "mode": "SYMMETRIC", "axis": None}
ACTIVATION = {"class": "RangeActivation", "bits": 16, "signed": True, "mode": "SYMMETRIC", "decay": 0.5}
MAKERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Conv1d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (2, 4, 9)),
    (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 9)),
    (lambda: nn.Conv3d(2, 3, 2), (1, 2, 5, 5, 5)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    (lambda: nn.ConvTranspose3d(2, 3, 2), (1, 2, 3, 3, 3)),
    (lambda: nn.Linear(4, 3), (2, 7, 4)),
]


def one_layer(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A float net of one layer with its 16-bit twin inside another net."""
    torch.manual_seed(0)
    net = nn.Sequential(module)
    slots = {"weight_quantizer": WEIGHT, "input_quantizer": ACTIVATION}
    if getattr(module, "bias", None) is not None:
        slots["bias_quantizer"] = WEIGHT
    if isinstance(module, nn.Embedding):
        del slots["input_quantizer"]
    return net, apply(nn.Sequential(module), {"layers": {"0": slots}, "folded": {}})


@pytest.mark.parametrize(("make", "shape"), MAKERS)
def test_16_bits_are_nearly_the_float_layer_and_gradients_arrive(make: Any, shape: tuple[int, ...]) -> None:
    net, twin = one_layer(make())
    x = torch.randn(shape)
    wanted = net(x)
    assert isinstance(twin[0], type(net[0]))
    assert twin[0].weight is net[0].weight
    torch.testing.assert_close(twin(x), wanted, rtol=1e-3, atol=1e-3)
    twin(x).square().sum().backward()
    grad, net[0].weight.grad = net[0].weight.grad, None
    net(x).square().sum().backward()
    torch.testing.assert_close(grad, net[0].weight.grad, rtol=0.02, atol=0.02)


def test_embedding() -> None:
    net, twin = one_layer(nn.Embedding(7, 3))
    indices = torch.tensor([[1, 2], [6, 0]])
    torch.testing.assert_close(twin(indices), net(indices), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", list(ACTIVATIONS))
def test_activations_round_what_the_float_one_gives(kind: type[nn.Module]) -> None:
    net = nn.Sequential(kind())
    twin = apply(nn.Sequential(net[0]), {"layers": {"0": {"output_quantizer": ACTIVATION}}, "folded": {}})
    x = torch.linspace(-3, 3, 200)
    signed = kind not in (nn.ReLU,)
    if not signed:
        twin[0].output_quantizer.signed = False
        twin[0].output_quantizer.mode = "ASYMMETRIC_UNSIGNED"
    torch.testing.assert_close(twin(x), net(x), rtol=1e-3, atol=1e-3)


def test_the_clip_of_a_relu_is_the_relu_also_in_its_gradient() -> None:
    structure = {
        "layers": {"0": {"output_quantizer": {"class": "FixedRangeActivation", "bits": 16, "signed": False}}},
        "folded": {},
    }
    twin, x = apply(nn.Sequential(nn.ReLU()), structure), torch.randn(500).clamp_max(0.9)
    x[:50] = 0
    x.requires_grad_()
    y = twin(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), x.detach().relu(), atol=1e-4, rtol=0)
    assert x.grad is not None
    assert torch.equal(x.grad, (x > 0).float())


def test_nothing_else_changes() -> None:
    net, other = tiny_net(), tiny_net()
    calls: list[int] = []
    net.conv1.register_forward_hook(lambda *_: calls.append(1))
    before = dict(net.named_parameters())
    children = list(other.modules())
    apply(net, {"layers": {"conv1": {"weight_quantizer": WEIGHT}}, "folded": {}})
    assert {name: id(p) for name, p in net.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert type(net.conv1) is LAYERS[nn.Conv2d]
    assert type(other.conv1) is nn.Conv2d
    assert nn.Conv2d.forward is not type(net.conv1).forward
    assert list(other.modules()) == children
    net(torch.randn(1, 3, 6, 6))
    assert calls == [1]


def test_a_module_of_two_names_is_exchanged_once() -> None:
    shared = nn.Linear(3, 3)
    net = nn.ModuleDict({"a": shared, "b": shared})
    apply(net, {"layers": {"a": {"weight_quantizer": WEIGHT}}, "folded": {}})
    assert net["a"] is net["b"]
    assert isinstance(net["b"], QuantLayer)


def test_twice_raises_and_so_does_another_network() -> None:
    structure = {"layers": {"conv1": {"weight_quantizer": WEIGHT}}, "folded": {}}
    net = apply(tiny_net(), structure)
    with pytest.raises(UserError, match="quantized already"):
        apply(net, structure)
    with pytest.raises(UserError, match="has no module 'conv9'"):
        apply(tiny_net(), {"layers": {"conv9": {}}, "folded": {}})


def quantized_net() -> nn.Module:
    """The tiny net with folded convolutions and some steps of training behind it."""
    layers = {
        "conv1": {"weight_quantizer": {**WEIGHT, "bits": 8, "axis": 0}, "input_quantizer": ACTIVATION},
        "relu1": {"output_quantizer": ACTIVATION},
        "conv2": {"weight_quantizer": {**WEIGHT, "bits": 4, "axis": 0}},
        "fc": {"weight_quantizer": {"class": "LearnedStepWeight", "bits": 4, "axis": 0}},
    }
    net = apply(tiny_net(), {"layers": layers, "folded": {"conv1": "bn1", "conv2": "bn2"}})
    for i in range(5):
        net(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(i)))
    return net


def test_structure_and_tensors_rebuild_the_network_from_a_file() -> None:
    net = quantized_net().eval()
    file = io.BytesIO()
    torch.save({"structure": structure_of(net), "tensors": net.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = apply(tiny_net(1), saved["structure"])
    again.load_state_dict(saved["tensors"])
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(again.eval()(x), net(x))
    assert structure_of(again) == structure_of(net)
    assert structure_of(tiny_net()) == {"layers": {}, "folded": {}}


def test_a_deep_copy_is_a_network_of_its_own() -> None:
    net = quantized_net().eval()
    copied, x = copy.deepcopy(net), torch.randn(2, 3, 6, 6)
    wanted = net(x)
    assert torch.equal(copied(x), wanted)
    assert copied.conv1.batch_norm is copied.bn1
    with torch.no_grad():
        copied.bn1.weight.mul_(3)
    assert torch.equal(net(x), wanted)


def test_folding_is_exact() -> None:
    """conv(x, Q(w s) / s) and the BatchNorm behind it are conv(x, Q(w s)) + beta - mean s: what is deployed."""
    net = quantized_net().eval()
    with torch.no_grad():
        net.bn2.weight[1] = 0.0
    conv, norm = net.conv2, net.bn2
    x = torch.rand(2, 8, 6, 6)
    scale = conv.fold_scale()
    weight = conv.weight_quantizer(conv.weight * scale)
    bias = norm.bias + (conv.bias - norm.running_mean) * scale.flatten()
    torch.testing.assert_close(norm(conv(x)), nn.functional.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-5)
    ((piece, read),) = weights_read(conv)
    assert piece is conv.weight_quantizer
    assert torch.equal(read, conv.weight * scale)


def test_a_held_batch_norm_stays_in_evaluation() -> None:
    net = quantized_net()
    assert type(net.bn1) is NORMS[nn.BatchNorm2d]
    net.bn1.hold()
    net.train()
    assert not net.bn1.training
    assert net.bn2.training
    mean = net.bn1.running_mean.clone()
    net(torch.randn(4, 3, 6, 6))
    assert torch.equal(net.bn1.running_mean, mean)


def test_tables_are_complete() -> None:
    for kind, twin in {**LAYERS, **ACTIVATIONS, **NORMS}.items():
        assert issubclass(twin, kind)
        assert twin.__name__.endswith(kind.__name__)
    assert all(issubclass(each, QuantActivation) for each in ACTIVATIONS.values())


# `fold_batchnorm` where a gamma is 0 or next to it: gradients of the unfolded form, and training gets out.


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

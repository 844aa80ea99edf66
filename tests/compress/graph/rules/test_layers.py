"""Weights that are computed: masked, scaled, standardised, cast, normalised, parametrized, quantized, borrowed.

Whatever the graph offers goes, and the thinned network stays equal to its masked twin while both are trained alike;
the rest is pinned with the module's name. In float64, tolerance 1e-10.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.pact import PACTQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from compress.quantization.wrpn import WRPNQuantizer
from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units, thin
from compress.thinning.trials.trial import prunable_graph


class Scaled(nn.Module):
    """A parametrization: a factor for each filter."""

    def __init__(self, filters, dims):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(filters, *[1] * (dims - 1)) + 0.5)

    def forward(self, weight):
        return weight * self.factor


class Shifted(nn.Module):
    """A parametrization that does not keep zeros."""

    def forward(self, weight):
        return weight + 0.1


class Computing(nn.Conv2d):
    """A convolution that computes its weight in `forward`."""

    def forward(self, x):
        return functional.conv2d(x, self.made(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(Computing):
    def made(self):
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return centred / (centred.view(centred.shape[0], -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5)


class StandardisedByVariance(Computing):
    def made(self):
        variance, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True)
        return (self.weight - mean) * torch.rsqrt(variance + 1e-6)


class StandardisedByBatchNorm(Computing):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.gain = nn.Parameter(torch.rand(self.out_channels) + 0.5)

    def made(self):
        rows = self.weight.reshape(1, self.weight.shape[0], -1)
        return functional.batch_norm(rows, None, None, self.gain, training=True).reshape_as(self.weight)


class Masked(Computing):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.register_buffer("mask", (torch.rand_like(self.weight) > 0.3).double())

    def made(self):
        return self.weight * self.mask


class Cast(Computing):
    def made(self):
        return self.weight.float().to(self.weight.dtype)


class Flipped(Computing):
    def made(self):
        return self.weight.flip(0).flip(-1)


class SumOfTwo(Computing):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.other = nn.Parameter(torch.randn_like(self.weight))

    def made(self):
        return self.weight + self.other


class OneOfAStack(Computing):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.stack = nn.Parameter(torch.randn(3, *self.weight.shape))
        del self.weight

    def made(self):
        return self.stack[1]


class MixOfAStack(OneOfAStack):
    def made(self):
        return (self.stack.new_tensor([0.2, 0.3, 0.5]).view(3, 1, 1, 1, 1) * self.stack).sum(0)


class Expanded(Computing):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.weight = nn.Parameter(self.weight[:, :1].detach().clone())

    def made(self):
        return self.weight.expand(-1, 8 // self.groups, -1, -1)


class Borrowing(nn.Module):
    """Calls with the weight of another module."""

    def __init__(self, channels, outs, size, groups, padding):
        super().__init__()
        self.lender = nn.Conv2d(channels, outs, size, padding=padding, groups=groups)
        self.settings = (1, padding, 1, groups)

    def forward(self, x):
        return functional.conv2d(x, self.lender.weight, self.lender.bias, *self.settings)


class Hyper(Borrowing):
    """Another layer makes the weight."""

    def __init__(self, channels, outs, size, groups, padding):
        super().__init__(channels, outs, size, groups, padding)
        self.shape = tuple(self.lender.weight.shape)
        self.code, self.lender = nn.Parameter(torch.randn(5)), nn.Linear(5, self.lender.weight.numel())

    def forward(self, x):
        return functional.conv2d(x, self.lender(self.code).view(self.shape), None, *self.settings)


class OfALinear(Hyper):
    """The weight of a linear layer, seen as filters."""

    def __init__(self, channels, outs, size, groups, padding):
        super().__init__(channels, outs, size, groups, padding)
        self.lender = nn.Linear(channels // groups * size * size, outs)

    def forward(self, x):
        rows = self.lender.weight
        weight = rows.view(rows.shape[0], -1, *self.shape[2:])
        return functional.conv2d(x, weight, self.lender.bias, *self.settings)


WRAPS = {
    "prune": lambda m, n: prune.random_unstructured(m, n, 0.3),
    "prune, rows": lambda m, n: prune.ln_structured(m, n, 0.25, 2, 0),
    "weight norm, old": lambda m, n: nn.utils.weight_norm(m, n),
    "weight norm": lambda m, n: parametrizations.weight_norm(m, n),
    "spectral norm, old": lambda m, n: nn.utils.spectral_norm(m, n),
    "spectral norm": lambda m, n: parametrizations.spectral_norm(m, n),
    "orthogonal": lambda m, n: parametrizations.orthogonal(m, n),
    "scaled": lambda m, n: parametrize.register_parametrization(
        m, n, Scaled(getattr(m, n).shape[0], getattr(m, n).dim())
    ),
    "shifted": lambda m, n: parametrize.register_parametrization(m, n, Shifted()),
}


def wrapped(module, way, *names):
    for name in names or ("weight",):
        WRAPS[way](module, name)
    return module


def chain(layer, first=None):
    """A network with the layer in its middle."""
    return nn.Sequential(
        first or nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), layer, nn.Tanh(), nn.Conv2d(8, 3, 1)
    )


def convolution(kind, groups):
    """8 to 8 channels."""
    if isinstance(kind, str):
        return wrapped(nn.Conv2d(8, 8, 3, groups=groups), kind)
    if issubclass(kind, nn.Conv2d):
        return kind(8, 8, 3, groups=groups)
    return kind(8, 8, 3, groups, 0)


COMPUTED = [
    Standardised, StandardisedByVariance, StandardisedByBatchNorm, Masked, Cast, Flipped, SumOfTwo, OneOfAStack,
    MixOfAStack, Expanded, Borrowing, Hyper, OfALinear,
]  # fmt: skip
IMAGE, LINE, ROW = (2, 3, 5, 5), (2, 3, 6), (2, 6)


def line(way, groups):
    return nn.Sequential(
        nn.Conv1d(3, 8, 1), nn.ReLU(), wrapped(nn.Conv1d(8, 8, 3, groups=groups), way), nn.Conv1d(8, 3, 1)
    )


def upsampling(way, groups):
    return chain(wrapped(nn.ConvTranspose2d(8, 8, 2, 2, groups=groups), way))


class Steps(nn.Module):
    """A cell that the code calls step by step."""

    def __init__(self, cell):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(6, 5), cell, nn.Linear(4, 3)

    def forward(self, x):
        state = None
        for step in self.first(x).unbind(1):
            state = self.cell(step, state)
        return self.last(state if isinstance(state, torch.Tensor) else state[0])


class Sequence(Steps):
    def forward(self, x):
        return self.last(self.cell(self.first(x))[0])


def recurrent(kind, way, *names):
    return Sequence(wrapped(kind(5, 4, batch_first=True), way, *names))


def others():
    """Layers that are not convolutions in two dimensions, by name."""
    found = {}
    for way in WRAPS:
        found[f"linear, {way}"] = (
            lambda w=way: nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), wrapped(nn.Linear(8, 8), w), nn.Linear(8, 3)),
            ROW,
        )
        found[f"embedding, {way}"] = (
            lambda w=way: nn.Sequential(wrapped(nn.Embedding(9, 8), w), nn.Linear(8, 3)),
            None,
        )
        for groups in (1, 2, 8):
            found[f"1d, {groups}, {way}"] = (lambda w=way, g=groups: line(w, g), LINE)
            found[f"transposed, {groups}, {way}"] = (lambda w=way, g=groups: upsampling(w, g), IMAGE)
        if way != "orthogonal" and way != "prune, rows":
            for names in (["weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0"]):
                for kind in (nn.LSTM, nn.GRU):
                    found[f"{kind.__name__}, {' '.join(names)}, {way}"] = (
                        lambda w=way, k=kind, n=names: recurrent(k, w, *n),
                        (2, 4, 6),
                    )
            found[f"cell, {way}"] = (
                lambda w=way: Steps(wrapped(nn.LSTMCell(5, 4), w, "weight_hh", "weight_ih")),
                (2, 4, 6),
            )
    for way in ("prune", "scaled", "shifted"):
        found[f"group norm, {way}"] = (lambda w=way: chain(wrapped(nn.GroupNorm(4, 8), w)), IMAGE)
        found[f"batch norm, {way}"] = (lambda w=way: chain(wrapped(nn.BatchNorm2d(8), w)), IMAGE)
    return found


OTHERS = others()
FEW = {
    *("linear, spectral norm", "embedding, prune", "1d, 8, prune", "transposed, 2, spectral norm, old"),
    *("transposed, 8, scaled", "LSTM, weight_hh_l0, weight norm", "LSTM, weight_ih_l0 weight_hh_l0, prune"),
    *("GRU, weight_hh_l0, spectral norm", "cell, shifted", "cell, prune", "group norm, prune", "batch norm, shifted"),
    *("1d, 2, orthogonal",),
}


def trained(model, masks, x):
    """Its output after three steps with momentum; the masked twin's masks are put on after each."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        y = model.train()(x)
        (y.square().mean() + y[..., 0].mean()).backward()
        optimizer.step()
        put_on(model, masks)
    with torch.no_grad():
        return model.eval()(x)


def check(make, shape):
    """Removes a unit of every prunable group; gives the graph, and how many groups lost one."""
    torch.manual_seed(0)
    model = make().double()
    x = torch.randint(0, 9, (2, 4)) if shape is None else torch.randn(shape, dtype=torch.float64)
    graph = prunable_graph(model, x)
    removed = {group.name: [1] for group in graph.groups(prunable_only=True)}
    if not removed:
        assert all(group.pinned for group in graph.groups())
        return graph, 0
    torch.manual_seed(0)
    masked = make().double()  # some of torch's old wrappers cannot be copied
    masked.load_state_dict(model.state_dict())
    masks = masks_of(graph, removed, dict(masked.named_parameters()))
    put_on(masked, masks)
    remove_units(model, graph, removed, x, masks=masks)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), masked.eval()(x), rtol=1e-10, atol=1e-10)
    result = trained(model, {}, x)
    assert result.isfinite().all()
    torch.testing.assert_close(result, trained(masked, masks, x), rtol=1e-10, atol=1e-10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "weight") and module.weight.shape[1] > 1:
            assert (module.out_channels, module.in_channels // module.groups) == tuple(module.weight.shape[:2])
    return graph, len(removed)


ONE, EIGHT = (pytest.param(groups, marks=pytest.mark.slow) for groups in (1, 8))


@pytest.mark.parametrize("groups", [ONE, 2, EIGHT])
@pytest.mark.parametrize("kind", COMPUTED)
def test_weights_computed_in_forward(kind, groups):
    if kind is Expanded and groups == 8:
        pytest.skip("nothing to expand")
    graph, count = check(lambda: chain(convolution(kind, groups)), IMAGE)
    if kind in (Masked, Cast, Flipped, SumOfTwo) or (kind in (OneOfAStack, MixOfAStack) and groups < 8):
        assert count >= (1 if groups == 8 else 2), graph.describe()
    if kind in (Standardised, StandardisedByVariance, StandardisedByBatchNorm) and groups < 8:
        assert any(reason.endswith("in 3)") for reason in graph.why_pinned("3.weight", 1))
        assert count, "the filters go, their inputs do not"


@pytest.mark.parametrize("groups", [ONE, 2, EIGHT])
@pytest.mark.parametrize("way", WRAPS)
def test_weights_that_are_no_parameter(way, groups):
    graph, count = check(lambda: chain(convolution(way, groups)), IMAGE)
    if way not in ("weight norm", "weight norm, old", "orthogonal"):
        assert count == (1 if groups == 8 else 2), graph.describe()
    else:
        reasons = [reason for group in graph.groups() for reason in group.pinned]
        assert any(" in 3" in reason for reason in reasons), graph.describe()


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
)
def test_other_layers(name):
    check(*OTHERS[name])


QUANTIZERS = [
    (DorefaQuantizer, {}),
    (PACTQuantizer, {}),
    (LSQQuantizer, {}),
    (WRPNQuantizer, {}),
    (QuantAwareTrainRangeLinearQuantizer, {}),
    (QuantAwareTrainRangeLinearQuantizer, {"per_channel_wts": True}),
]


def quantized(cls, settings, groups):
    model = chain(nn.Conv2d(8, 8, 3, groups=groups))
    quantizer = cls(bits_activations=8, bits_weights=4, example_inputs=torch.zeros(IMAGE), **settings)
    quantizer.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    quantizer.convert(model)
    return model


@pytest.mark.parametrize("groups", [pytest.param(2, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize(("cls", "settings"), QUANTIZERS)
def test_behind_a_quantizer(cls, settings, groups):
    """Removed or pinned by name, and the function is the same. LSQ's steps are trained by a factor of their own."""
    if cls is WRPNQuantizer:
        assert check(lambda: quantized(cls, settings, groups), IMAGE)[1]
        return
    torch.manual_seed(0)
    model, x = quantized(cls, settings, groups).double(), torch.randn(IMAGE, dtype=torch.float64)
    model.train()(x)
    graph = prunable_graph(model, x)
    removed = {group.name: [1] for group in graph.groups(prunable_only=True)}
    assert removed if cls is LSQQuantizer else all(group.pinned for group in graph.groups())
    masked = copy.deepcopy(model)
    put_on(masked, masks_of(graph, removed, dict(masked.named_parameters())))
    remove_units(model, graph, removed, x)
    torch.testing.assert_close(model.eval()(x), masked.eval()(x), rtol=1e-10, atol=1e-10)


def test_zeros_of_what_a_weight_is_made_of_are_found():
    """No masks: the rows of `weight_orig` are zero, and the columns that read them belong to the other side."""
    model = chain(nn.Conv2d(8, 8, 3), wrapped(nn.Conv2d(3, 8, 1), "prune"))
    wrapped(model[3], "prune")
    with torch.no_grad():
        model[0].weight_orig[[1, 4]] = 0
        model[0].bias[[1, 4]] = 0
        for norm in (each for each in model if isinstance(each, nn.BatchNorm2d)):
            norm.weight[[1, 4]], norm.bias[[1, 4]] = 0, 0
    thin(model, torch.randn(IMAGE))
    assert model[0].out_channels == model[3].in_channels == 6
    assert model[0].weight_mask.shape[0] == 6


def test_macs_of_a_unit_whose_weight_is_computed():
    plain, computed = chain(nn.Conv2d(8, 8, 3)), chain(wrapped(nn.Conv2d(8, 8, 3), "prune"))
    costs = [
        prunable_graph(net, torch.zeros(IMAGE)).groups_of("0.weight")[0].macs_per_unit for net in (plain, computed)
    ]
    assert costs[0] == costs[1] > 0

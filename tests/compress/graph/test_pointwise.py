"""Every activation of torch and its math on elements: channels pass, and zero is what the function makes of zero."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph.channels import channel_graph
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, thinned_alike

OVER_A_DIMENSION = ("Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
NEEDS = {"Threshold": (0.1, 0.2), "MultiheadAttention": None}


def activations():
    """Every activation module, in place too where it can be; those over a dimension are not functions of an element."""
    found = {}
    for name in nn.modules.activation.__all__:
        kind = getattr(nn, name)
        if name in OVER_A_DIMENSION or NEEDS.get(name, ()) is None:
            continue
        found[name] = kind(*NEEDS.get(name, ()))
        if "inplace" in inspect.signature(kind).parameters:
            found[f"{name} in place"] = kind(*NEEDS.get(name, ()), inplace=True)
    return found


def words(text):
    return text.split()


FUNCTIONS = words(
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 rrelu selu sigmoid "
    "silu softplus softshrink softsign tanh tanhshrink celu_ elu_ hardtanh_ leaky_relu_ relu_ rrelu_ selu_"
)
UNARY = words(
    "abs absolute acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh ceil conj_physical "
    "cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 fix floor frac i0 isfinite isinf isnan isreal lgamma log "
    "log10 log1p log2 logical_not logit nan_to_num neg negative positive rad2deg reciprocal relu round rsqrt sgn "
    "sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc"
)
BINARY = words(
    "add arctan2 atan2 copysign div divide eq floor_divide fmax fmin fmod ge greater greater_equal gt heaviside hypot "
    "isclose le less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lt maximum minimum mul "
    "multiply ne nextafter not_equal pow remainder rsub sub subtract true_divide xlogy"
)
WITH_NUMBER = words("add sub mul div pow fmod remainder floor_divide clamp_min clamp_max eq ne lt gt le ge xlogy")


def out_form(name):
    return lambda x: getattr(torch, name)(x, x.abs(), out=torch.empty_like(x))


def functions():
    """Name -> a function of one tensor; of those with two operands with the channels in both, and in either alone."""
    found = {f"functional {name}": getattr(functional, name) for name in FUNCTIONS}
    found["functional threshold"] = lambda x: functional.threshold(x, 0.1, 0.2)
    found["threshold that keeps"] = lambda x: functional.threshold(x, -0.1, 0.2)
    found["threshold_"] = lambda x: functional.threshold_(x, 0.1, 0.2)
    found |= {name: getattr(torch, name) for name in UNARY}
    found |= {f"{n}_": getattr(torch.Tensor, f"{n}_") for n in UNARY if hasattr(torch.Tensor, f"{n}_")}
    for name in BINARY:
        found[name] = lambda x, name=name: getattr(torch, name)(x, torch.sin(x))
        if hasattr(torch.Tensor, f"{name}_"):
            found[f"{name}_"] = lambda x, name=name: getattr(x.clone(), f"{name}_")(x)
    for name in WITH_NUMBER:
        for number in (0, -1.5):
            found[f"{name} {number}"] = lambda x, name=name, number=number: getattr(torch, name)(x, number)
    found |= {f"{name} out": out_form(name) for name in ("add", "sub", "mul", "div", "atan2", "maximum", "pow")}
    return found | {
        "2 ** x": lambda x: 2**x,
        "1 - x": lambda x: 1 - x,
        "1 / x": lambda x: 1 / x,
        "x // 2": lambda x: x // 2,
        "lerp": lambda x: torch.lerp(x, x.exp(), 0.5),
        "addcmul": lambda x: torch.addcmul(x, x, x.cos()),
        "addcdiv": lambda x: torch.addcdiv(x, x, x.exp()),
        "clamp": lambda x: x.clamp(0.1, 2),
        "clamp around zero": lambda x: x.clamp(-1, 2),
        "clip_": lambda x: x.clip_(-1, 2),
        "where a mask of it": lambda x: torch.where(x > 0, x, 0.5),
        "where a mask that is false at zero": lambda x: torch.where(x > 0, 3.0, x),
        "masked_fill": lambda x: x.masked_fill(x < 0, -4.0),
        "masked_fill at zero": lambda x: x.masked_fill(x <= 0, -4.0),
        "masked_fill_": lambda x: x.masked_fill_(x < 0, -4.0),
        "real of complex": lambda x: torch.complex(x, x.sin()).real,
        "imag of complex": lambda x: torch.complex(x, x.cos()).imag,
        "polar": lambda x: torch.polar(x, x).abs(),
        "bitwise": lambda x: ((x > 0) & (x < 2)).to(x.dtype),
        "zero_": lambda x: x.zero_(),
        "fill_": lambda x: x.fill_(2),
        "fill_ with a tensor": lambda x: x.clone().fill_(torch.tensor(2.0)),
        "fill_ with a tensor of zero": lambda x: torch.where(x > 0, torch.zeros_like(x).fill_(x.new_zeros(())), 3.0),
        "minimum with a tensor": lambda x: torch.minimum(x, torch.tensor(-0.5)),
        "float and back": lambda x: x.float().double(),
    }


class Each(nn.Module):
    """One convolution for each function, and one reader."""

    def __init__(self, functions, read):
        super().__init__()
        self.functions = list(functions)
        self.modules_of = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self.first = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in functions)
        self.read = nn.ModuleList(read() for _ in functions)

    def forward(self, x):
        pairs = zip(self.first, self.functions, self.read, strict=True)
        return [read(function(first(x)).to(x.dtype)) for first, function, read in pairs]


class SumOfChannels(nn.Module):
    def forward(self, x):
        return x.sum(1)


ALL = {**activations(), **functions()}
FEW = {
    **activations(),
    **{name: f for name, f in functions().items() if " " in name or name in ("floor_divide", "cos_")},
}


def at_zero(function):
    """What the function makes of zeros, computed by itself in eval and in training mode."""
    zeros = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    if isinstance(function, nn.Module):
        function = function.eval()
    return function(zeros).to(torch.float64)


@pytest.mark.parametrize(
    "tested", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["activations", "all math on elements"]
)
def test_channels_pass_and_zero_stays_zero_where_the_function_says_so(tested):
    """A sum over the channels reads each: they go if they are zero, else that sum is the reason and nothing before."""
    model = (
        Each(tested.values(), SumOfChannels).double().requires_grad_(False)
    )  # `out=` and a gradient exclude each other
    graph = channel_graph(model, numbers(2, 3, 2, 2))
    wrong = {}
    for index, (name, function) in enumerate(tested.items()):
        reasons = [reason.partition(" (")[0].partition(",")[0] for reason in graph.why_pinned(f"first.{index}.weight")]
        zero = bool((at_zero(function) == 0).all())
        if reasons != ([] if zero else ["reduced over the channels"]):
            wrong[name] = reasons
    assert not wrong


SMOOTH = [f"functional {name}" for name in FUNCTIONS] + [*activations()]


@pytest.mark.parametrize("part", [0, 1])
def test_activations_thinned_alike(part):
    """Through the proof, training mode and training: what RReLU draws is drawn alike there."""
    chosen = {name: ALL[name] for name in SMOOTH[part::2] if "rrelu" not in name.lower()}
    removed, graph = thinned_alike(Each(chosen.values(), lambda: nn.Conv2d(4, 2, 1)), numbers(3, 3, 4, 4))
    assert len(removed) == len([group for group in graph.groups() if group.name.startswith("first")]) / 2


@pytest.mark.parametrize("inplace", [False, True])
def test_rrelu_is_drawn_alike_in_the_proof(inplace):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.RReLU(inplace=inplace), nn.Conv2d(8, 2, 1)).double()
    image = numbers(2, 3, 4, 4)
    graph = prunable_graph(model, image)
    assert remove_units(model, graph, {"0.weight[0]": [1, 5]}, image).difference < 1e-12

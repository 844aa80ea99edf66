"""Branches that are closed today: what is proved must hold once training has opened them.

Each network hides a block behind a gate. What the bench removes is removed from a masked twin too; then both get the
same new values everywhere, as if trained, in float64, and must be the same function (1e-9 relative). Where the block
cannot lose channels, a refusal or a pin is right.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.errors import UserError
from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.blocks import Lambda
from tests.compress.thinning.test_blocks import third


class Times(nn.Module):
    """A parameter, a buffer or a number in the code times the input."""

    def __init__(self, value, kind="parameter", function=None, shape=(8, 1, 1)):
        super().__init__()
        self.value, self.function = value, function
        if kind == "parameter":
            self.value = nn.Parameter(torch.full(shape, value))
        elif kind == "buffer":
            del self.value
            self.register_buffer("value", torch.full(shape, value))

    def forward(self, x):
        return x * (self.function(self.value) if self.function else self.value)


def constant(module, value, bias=None):
    nn.init.constant_(module.weight, value)
    if module.bias is not None:
        nn.init.constant_(module.bias, value if bias is None else bias)
    return module


class Excite(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = constant(nn.Linear(8, 8), 0.0, -200.0)

    def forward(self, x):
        return x * self.layer(x.mean((2, 3))).sigmoid()[:, :, None, None]


class Adaptive(nn.Module):
    """adaLN-zero: a gate computed by a layer that starts at zero."""

    def __init__(self):
        super().__init__()
        self.layer = constant(nn.Linear(8, 8), 0.0)

    def forward(self, x):
        return x * self.layer(x.mean((2, 3)))[:, :, None, None]


GATES = {
    "layer scale": lambda: Times(1e-5),
    "next to nothing": lambda: Times(1e-30),
    "tanh of zero": lambda: Times(0.0, function=torch.tanh, shape=()),
    "hard sigmoid": lambda: Times(-50.0, function=functional.hardsigmoid),
    "zero buffer": lambda: Times(0.0, "buffer"),
    "exponential of a buffer": lambda: Times(-800.0, "buffer", torch.exp),
    "number in the code": lambda: Times(0.0, "number"),
    "zero gamma": lambda: constant(nn.BatchNorm2d(8), 0.0),
    "zero convolution": lambda: constant(nn.Conv2d(8, 8, 1), 0.0),
    "constant convolution": lambda: constant(nn.Conv2d(8, 8, 1), 1e-30),
    "low rank": lambda: nn.Sequential(nn.Conv2d(8, 4, 1), constant(nn.Conv2d(4, 8, 1, bias=False), 0.0)),
    "squeeze and excite": Excite,
    "adaptive": Adaptive,
    "dead ReLU": lambda: nn.Sequential(constant(nn.Conv2d(8, 8, 1), 0.1, -100.0), nn.ReLU()),
    "hard gate": lambda: Lambda(lambda x: torch.where(x > 1e6, x, 0)),
}
FAULTY = {
    "root of the width": lambda x: x / x.shape[1] ** 0.5,
    "width as a tensor": lambda x: x / torch.tensor(float(x.shape[1])),
    "power": lambda x: x.pow(1 + 1 / x.shape[1]),
    "softmax in four groups": lambda x: x.view(2, 4, -1, 3, 3).softmax(2).reshape(2, -1, 3, 3),
    "four groups shuffled": lambda x: x.view(2, 4, x.shape[1] // 4, 3, 3).transpose(1, 2).reshape(x.shape),
}


class Behind(nn.Module):
    """x + gate(block(x)), where the block's code depends on its width."""

    def __init__(self, function, gate):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1)
        self.narrow, self.gate, self.last = nn.Conv2d(16, 8, 1), gate, nn.Conv2d(8, 2, 1)
        self.function = function

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(x + self.gate(self.narrow(self.function(self.wide(x).relu()))))


class NonLocal(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), constant(nn.Conv2d(6, 8, 1), 0.0)
        self.parts = nn.ModuleList([nn.Conv2d(8, 6, 1) for _ in range(3)])

    def forward(self, x):
        x = self.stem(x).relu()
        query, key, value = (part(x).flatten(2) for part in self.parts)
        scores = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(-1)
        return self.last(x + self.out((value @ scores.transpose(1, 2)).view(2, -1, *x.shape[2:])))


class DiffusionAttention(nn.Module):
    """The number of heads is the module's, their size the tensor's."""

    def __init__(self):
        super().__init__()
        self.heads, self.stem, self.last = 2, nn.Conv2d(3, 16, 1), nn.Conv2d(16, 2, 1)
        self.qkv, self.out = nn.Conv2d(16, 48, 1), constant(nn.Conv2d(16, 16, 1), 0.0)

    def forward(self, x):
        x = self.stem(x)
        query, key, value = self.qkv(x).reshape(2 * self.heads, -1, 9).chunk(3, 1)
        scores = (query.transpose(1, 2) @ key * query.shape[1] ** -0.5).softmax(-1)
        return self.last(x + self.out((value @ scores.transpose(1, 2)).reshape(2, -1, *x.shape[2:])))


class ReZero(nn.Module):
    """The number of heads is a literal."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(16, 16, 1) for _ in range(3)])
        self.stem, self.out, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = self.stem(x)
        query, key, value = (part(x).view(2, 4, -1, 9) for part in self.parts)
        scores = (query.transpose(2, 3) @ key / 2).softmax(-1)
        return self.last(x + self.alpha * self.out((value @ scores.transpose(2, 3)).reshape(2, -1, *x.shape[2:])))


NETWORKS = {
    "non-local": NonLocal,
    "diffusion attention": DiffusionAttention,
    "ReZero": ReZero,
    **{
        f"{block} behind {gate}": lambda block=block, gate=gate: Behind(FAULTY[block], GATES[gate]())
        for block, gate in [
            *(("root of the width", gate) for gate in GATES),
            *(("four groups shuffled", gate) for gate in GATES),
            *((block, gate) for block in FAULTY for gate in ("zero buffer", "dead ReLU", "number in the code")),
        ]
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_proved_holds_once_the_branch_is_open(name):
    torch.manual_seed(0)
    model, image = NETWORKS[name](), torch.randn(2, 3, 3, 3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    masked = copy.deepcopy(model).double()
    try:
        graph = prunable_graph(model, image)
        removed = third(graph)
        result = remove_units(model, graph, removed, image)
    except UserError:
        assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
        return
    masks = masks_of(graph, removed, dict(masked.named_parameters()))
    trained(masked, masks, model.double(), result.recipe)
    for training in (False, True):
        expected = masked.train(training)(image.double())
        found = model.train(training)(image.double())
        assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def trained(masked, masks, thinned, recipe):
    """The same new values in both, of ordinary size; masked is what the masks say."""
    with torch.no_grad():
        for tensor in (*masked.parameters(), *masked.buffers()):
            if tensor.is_floating_point():
                drawn = torch.rand_like(tensor)
                tensor.copy_(drawn + 0.1 if tensor.dim() < 2 else 2 * drawn - 0.9)
    put_on(masked, masks)
    own = {**dict(thinned.named_parameters()), **dict(thinned.named_buffers())}
    for key, tensor in (*masked.named_parameters(), *masked.named_buffers()):
        own[key].data = recipe.slice(key, tensor.data).clone()
    for module in (*masked.modules(), *thinned.modules()):
        if isinstance(module, Times) and isinstance(module.value, float):
            module.value = 0.7


def test_the_refusal_says_what_follows_the_width():
    torch.manual_seed(0)
    model, image = Behind(FAULTY["root of the width"], GATES["layer scale"]()), torch.randn(2, 3, 3, 3)
    with pytest.raises(UserError, match=r"a number in div follows the width: 4 becomes 3.87298"):
        remove_units(model, prunable_graph(model, image), {"wide.weight[0]": [0]}, image)


@pytest.mark.parametrize("gate", ["zero buffer", "zero gamma", "dead ReLU", "number in the code"])
def test_a_block_that_follows_is_thinned_behind_a_gate_too(gate):
    torch.manual_seed(0)
    model, image = Behind(torch.tanh, GATES[gate]()), torch.randn(2, 3, 3, 3)
    graph = prunable_graph(model, image)
    remove_units(model, graph, third(graph), image)
    assert model.wide.out_channels == 11

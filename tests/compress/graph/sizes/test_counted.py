"""Numbers that torch's layers keep beside their weights, and lengths of parameters: they follow the channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph.sizes.settable import counted_place
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, prepared, thinned_alike

IMAGES = numbers(2, 3, 6, 6), numbers(3, 3, 8, 5)


class Layers(nn.Module):
    """Convolutions with a function between them, fixed and learnt kernels, and layers that it may run."""

    unused_parts = ("up", "depthwise", "words")

    def __init__(self, function):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.up, self.depthwise = nn.ConvTranspose2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.words = nn.Embedding(5, 8)
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("line", line)
        self.register_buffer("square", torch.outer(line, line)[None, None])
        self.learnt = nn.Parameter(torch.randn(3, 3))
        self.function = function

    def forward(self, x):
        return self.last(self.function(self, self.norm(self.first(x)).relu()))


def blurred(y, kernel, groups):
    return functional.conv2d(y, kernel, groups=groups, padding=1)


EXACT = {
    "a fixed kernel, expanded": lambda net, y: blurred(
        y, net.square.expand(net.first.out_channels, 1, 3, 3), net.first.out_channels
    ),
    "a fixed kernel, repeated": lambda net, y: blurred(
        y, net.square.repeat(net.last.in_channels, 1, 1, 1), net.last.in_channels
    ),
    "a fixed line": lambda net, y: blurred(
        y, (net.line[:, None] * net.line)[None, None].repeat(y.shape[1], 1, 1, 1), y.shape[1]
    ),
    "an outer product": lambda net, y: blurred(
        y, net.line.outer(net.line)[None, None].expand(net.norm.num_features, 1, -1, -1), net.norm.num_features
    ),
    "a learnt kernel": lambda net, y: blurred(y, net.learnt[None, None].expand(y.shape[1], 1, 3, 3), y.shape[1]),
    "a kernel of the code": lambda net, y: blurred(
        y, torch.ones(1, 1, 3, 3, dtype=y.dtype).repeat(net.norm.bias.numel(), 1, 1, 1), net.norm.bias.numel()
    ),
    "halves": lambda net, y: torch.cat(y.split(net.first.out_channels // 2, 1)[::-1], 1),
    "a view": lambda net, y: y.view(-1, net.norm.weight.numel(), y.shape[2], y.shape[3]).relu(),
    "transposed": lambda net, y: net.up(y + y.new_ones(1, net.up.in_channels, 1, 1)).sub(
        y.new_ones(1, net.up.out_channels, 1, 1)
    ),
    "depthwise": lambda net, y: net.depthwise(y) + y.new_zeros(len(y), net.depthwise.in_channels, 1, 1),
    "an embedding": lambda net, y: y * net.words.weight[2].view(1, net.words.embedding_dim, 1, 1),
}
FAST = ("a fixed kernel, expanded", "a fixed line", "halves")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in EXACT])
def test_numbers_beside_weights_follow_them(name):
    removed, graph = thinned_alike(Layers(EXACT[name]), *IMAGES)
    assert "first.weight[0]" in removed, graph.describe()


def test_a_number_of_a_layer_that_no_call_runs_follows_nothing():
    net = Layers(lambda net, y: y + y.new_ones(1, net.up.out_channels, 1, 1))
    removed, graph = thinned_alike(net, *IMAGES)
    assert not removed
    assert "coupled to a tensor of fixed size" in graph.why_pinned("first.weight")[0]


class Independent(nn.Module):
    """A recurrent layer without a matrix of its own, whose state is as large as its vector."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.reads, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.keeps = nn.Parameter(torch.rand(8))

    def forward(self, x):
        x, state, states = self.reads(x), x.new_zeros(x.shape[0], self.size(self)), []
        for step in x.unbind(1):
            state = (step + self.keeps * state).relu()
            states.append(state)
        return self.last(torch.stack(states, 1))


def test_the_length_of_a_parameter_follows_it():
    net = Independent(lambda net: net.keeps.numel())
    removed, _ = thinned_alike(net, numbers(2, 4, 5), numbers(3, 6, 5))
    assert "keeps[0]" in removed


def test_what_a_number_beside_a_weight_counts():
    assert counted_place(nn.Conv2d(3, 8, 1), "in_channels") == ("weight", 1)
    assert counted_place(nn.ConvTranspose2d(3, 8, 1), "in_channels") == ("weight", 0)
    assert counted_place(nn.Conv2d(8, 8, 1, groups=8), "in_channels") == ("weight", 0)
    assert counted_place(nn.Conv2d(8, 4, 1, groups=2), "in_channels") is None
    assert counted_place(nn.Linear(3, 8), "out_features") == ("weight", 0)
    assert counted_place(nn.Linear(3, 8), "training") is None
    assert counted_place(nn.BatchNorm2d(8, affine=False), "num_features") is None


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda net, y: y.view(len(y), -1, 4, 36).softmax(1).view(len(y), 8, 6, 6),
            "literals or products of sizes: 4 at test_",  # not in the line above, which the reason quotes
        ),
        (
            lambda net, y: y.view(len(y), int("8"), -1).softmax(-1).view(y.shape),
            "fixed in the code, (2, 8, 6, 6) to (2, 8, 36) (view ",
        ),
    ],
)
def test_a_number_in_a_view_is_named_with_the_view(function, said):
    graph = prunable_graph(prepared(Layers(function)), numbers(2, 3, 6, 6))
    assert any(said in reason for reason in graph.why_pinned("first.weight")), graph.why_pinned("first.weight")

"""A write through a view is a write to its base: what was zero there is not any more."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import Between, numbers, thinned_alike

IMAGE = (2, 3, 6, 6)


def written(view):
    """One is added to a view of the features; the sum over the channels of the features reads it."""

    def function(module, x):
        view(x).add_(1)
        return x.sum(1, keepdim=True)

    return function


VIEWS = {
    "flatten": lambda x: x.flatten(1),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "slice of space": lambda x: x[:, :, 1:3],
    "select of space": lambda x: x[..., 0],
    "transpose": lambda x: x.transpose(1, 3),
    "movedim": lambda x: x.movedim(1, -1),
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "permute": lambda x: x.permute(1, 0, 2, 3),
    "part of a split": lambda x: x.unsafe_chunk(2, 3)[0],
    "narrow of space": lambda x: x.narrow(2, 0, 2),
    "narrow of the batch": lambda x: x.narrow(0, 0, 1),
    "view": lambda x: x.view(x.size(0), x.size(1), -1),
    "reshape": lambda x: x.reshape(x.size(0), -1),
    "view of a view": lambda x: x.flatten(2).transpose(1, 2),
    "detach": lambda x: x.detach(),
    "contiguous": lambda x: x.contiguous(),
    "view_as": lambda x: x.view_as(x.clone()),
    "expand_as": lambda x: x.expand_as(x),
    "identity": lambda x: torch.nn.functional.dropout(x, 0.5, False),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_write_through_a_view_pins_what_only_a_sum_reads(view):
    removed, graph = thinned_alike(Between(written(VIEWS[view]), (3, 8, 1, 4)), numbers(*IMAGE), numbers(3, 3, 8, 8))
    assert not removed
    assert any("reduced over the channels" in why for why in graph.why_pinned("first.weight"))


def through_view(x):
    x.flatten(1).relu_()
    return x


def base_then_view(x):
    view = x.flatten(2)
    x.add_(1)
    return view.sum(1, keepdim=True).unsqueeze(2)


def copied(x):
    x[:, :, :2].copy_(x[:, :, 2:4].relu())
    return x


@pytest.mark.parametrize(
    ("function", "goes"),
    [
        (lambda module, x: through_view(x).sum(1, keepdim=True), True),
        (lambda module, x: base_then_view(x), False),
        (lambda module, x: copied(x).sum(1, keepdim=True), True),
        (lambda module, x: copied(x + 1).sum(1, keepdim=True), False),
    ],
    ids=["relu", "base before view", "copy of zeros", "copy of ones"],
)
def test_zeros_that_stay_zeros_go(function, goes):
    removed, _ = thinned_alike(Between(function, (3, 8, 1, 4)), numbers(*IMAGE), numbers(3, 3, 8, 8))
    assert bool(removed) == goes


@pytest.mark.parametrize("view", VIEWS)
def test_a_convolution_that_reads_it_masks_it(view):
    def function(module, x):
        VIEWS[view](x).add_(1)
        return x

    removed, _ = thinned_alike(Between(function), numbers(*IMAGE), numbers(3, 3, 8, 8))
    assert removed


class Two(nn.Module):
    """Two convolutions whose weights a function brings together."""

    def __init__(self, bring):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("v", torch.zeros(8, 3))
        bring(self)

    def forward(self, x):
        shift = torch.nn.functional.conv2d(x, self.v[:, :, None, None])
        return self.b((self.a(x) - shift).relu() + self.c(x).tanh())


def same_data(net):
    net.c.weight.data = net.a.weight.data


def view_as_buffer(net):
    net.v = net.a.weight.detach()[:, :, 0, 0]


def same_parameter(net):
    net.c.weight = net.a.weight


def side_by_side(net):
    both = torch.randn(2, 8, 3, 1, 1)
    net.a.weight.data, net.c.weight.data = both[0], both[1]


@pytest.mark.parametrize("bring", [same_data, view_as_buffer])
def test_two_tensors_in_one_memory_stay(bring):
    net = Two(bring)
    graph = prunable_graph(net, numbers(*IMAGE).float())
    (group,) = graph.groups_of("a.weight")
    other = "c.weight" if bring is same_data else "v"
    assert any("same memory" in each and "a.weight" in each and other in each for each in group.pinned)
    with pytest.raises(UserError, match="a.weight.*same memory.*nothing was removed"):
        remove_units(net, graph, {group.name: [0, 1]}, numbers(*IMAGE).float())
    assert net.a.out_channels == 8


@pytest.mark.parametrize("bring", [same_parameter, side_by_side])
def test_one_tensor_under_two_names_goes_and_neighbours_in_memory_go(bring):
    net = Two(bring)
    image = numbers(*IMAGE).float()
    graph = prunable_graph(net, image)
    (group,) = graph.groups_of("a.weight")
    remove_units(net, graph, {group.name: [0, 1]}, image)
    assert net.a.weight.shape[0] == net.c.weight.shape[0] == 6
    assert (net.a.weight is net.c.weight) == (bring is same_parameter)


class Kept(nn.Module):
    """Reads what an attribute keeps, which may be the memory of a weight."""

    def __init__(self, keep):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.kept = keep(self.a.weight)

    def forward(self, x):
        kept = self.kept[0] if isinstance(self.kept, list) else self.kept
        return self.b(self.a(x) * kept.sum())


@pytest.mark.parametrize(("keep", "stays"), [
    (lambda weight: weight.data[:4], True), (lambda weight: weight.detach(), True),
    (lambda weight: [weight.detach().flatten()], True), (lambda weight: weight.detach().clone(), False),
])  # fmt: skip
def test_a_weight_that_is_read_through_an_attribute_stays(keep, stays):
    graph = prunable_graph(Kept(keep), numbers(*IMAGE).float())
    assert any("forward reads the memory of a.weight" in each for each in graph.why_pinned("a.weight")) == stays
    assert bool(graph.groups(prunable_only=True)) != stays


class Message(nn.Module):
    """Sums over the neighbours in a graph whose adjacency is sparse."""

    def __init__(self, kind, registered):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.kind = nn.Linear(5, 8), nn.Linear(8, 3), kind
        links = torch.ones(2, 2).triu()
        adjacency = links if kind == "made sparse" else links.to_sparse()
        if registered:
            self.register_buffer("adjacency", adjacency)
        else:
            self.adjacency = adjacency

    def forward(self, x):
        links = self.adjacency.to_sparse() if self.kind == "made sparse" else self.adjacency
        y = self.a(x)
        return self.b((torch.sparse.mm(links, y) if self.kind == "mm" else links @ y).relu())


@pytest.mark.parametrize("kind", ["at", "mm", "made sparse"])
@pytest.mark.parametrize("registered", [True, False])
def test_sparse_tensors_are_memory_of_their_own(kind, registered):
    graph = prunable_graph(Message(kind, registered), numbers(2, 5).float())
    (group,) = graph.groups_of("a.weight", 0)
    assert not group.pinned

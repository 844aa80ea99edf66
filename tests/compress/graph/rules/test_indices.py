"""Messages along edges, lookups, writes by index: what the indices have no say in follows, the rest is pinned."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph.channels import channel_graph
from tests.compress.thinning.twins import Between, numbers, prepared, thinned_alike

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 3, 1]])
SOURCES, TARGETS = EDGES


class Messages(nn.Module):
    """Two rounds of messages along edges, with a shortcut."""

    def __init__(self, gathered, dim=6):
        super().__init__()
        self.dim, self.gathered = dim, gathered
        self.first, self.middle, self.last = nn.Linear(5, dim), nn.Linear(dim, dim), nn.Linear(dim, 3)

    def forward(self, x, edges):
        x = self.first(x).relu()
        x = self.middle(self.gathered(self, x, *edges)).relu() + x
        return self.last(self.gathered(self, x, *edges))


def over(indices, y):
    return indices[:, None].expand(-1, y.shape[1])


def assigned(x, places, values):
    x = x.clone()
    x[places] = values
    return x


def softmax_by_target(_, x, sources, targets):
    scores = (x[sources] * x[targets]).sum(1, keepdim=True).sigmoid()
    sums = torch.zeros(len(x), 1, dtype=x.dtype).index_add(0, targets, scores)
    return torch.zeros_like(x).index_add(0, targets, x[sources] * scores / sums[targets])


EXACT = {
    "index_add": lambda _, x, s, t: torch.zeros_like(x).index_add(0, t, x[s]),
    "index_add_ in a kept width": lambda self, x, s, t: torch.zeros(len(x), self.dim, dtype=x.dtype).index_add_(
        0, t, x.index_select(0, s)
    ),
    "index_add along a later dimension": lambda _, x, s, t: torch.zeros_like(x[None]).index_add(1, t, x[None][:, s])[0],
    "index_copy": lambda _, x, s, t: x.index_copy(0, t[:5], x[s][:5]),
    "index_fill": lambda _, x, s, t: x.index_fill(0, s[:2], 0.0),
    "index_reduce": lambda _, x, s, t: torch.zeros_like(x).index_reduce(0, t, x[s], "amax"),
    "index_put, summed": lambda _, x, s, t: torch.zeros_like(x).index_put((t,), x[s], accumulate=True),
    "assigned": lambda _, x, s, t: assigned(x, t[:5], x[s[:5]]),
    "scatter_add, expanded": lambda _, x, s, t: torch.zeros_like(x).scatter_add(0, over(t, x), x[s]),
    "scatter_add, expand_as": lambda _, x, s, t: torch.zeros_like(x).scatter_add(0, t[:, None].expand_as(x[s]), x[s]),
    "scatter_add, repeated": lambda _, x, s, t: torch.zeros_like(x).scatter_add_(
        0, t[:, None].repeat(1, x.size(1)), x[s]
    ),
    "scatter_reduce": lambda _, x, s, t: torch.zeros_like(x).scatter_reduce(
        0, over(t, x), x[s], "mean", include_self=False
    ),
    "scatter": lambda _, x, s, t: x.scatter(0, over(t[:5], x), x[s[:5]]),
    "gather": lambda _, x, s, t: x + x.gather(0, over(s, x)).sum(0, keepdim=True),
    "take_along_dim": lambda _, x, s, t: x + torch.take_along_dim(x, s[:, None], 0).sum(0, keepdim=True),
    "segment_reduce": lambda _, x, s, t: (
        x + torch.segment_reduce(x, "sum", lengths=torch.tensor([2, len(x) - 2]), axis=0).sum(0)
    ),
    "softmax by target": softmax_by_target,
    "a product with a sparse adjacency": lambda _, x, s, t: torch.sparse.mm(
        torch.sparse_coo_tensor(torch.stack((t, s)), torch.ones(len(s), dtype=x.dtype), (len(x), len(x))), x
    ),
}
SLOW = {*EXACT} - {"index_add", "scatter_add, expanded", "a product with a sparse adjacency"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXACT])
def test_messages_along_edges_leave_the_channels_alone(name):
    graphs = (numbers(5, 5), EDGES), (numbers(7, 5), EDGES)
    removed, _ = thinned_alike(Messages(EXACT[name]), *graphs)
    assert "first.weight[0]" in removed


class Adjacency(nn.Module):
    """A fixed graph, in whatever layout, whose nodes lie where batches lie."""

    def __init__(self, layout):
        super().__init__()
        edges = torch.eye(6) + torch.eye(6).roll(1, 0) * 0.5
        self.register_buffer("edges", edges if layout is torch.strided else edges.to_sparse(layout=layout))
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.edges @ self.first(x).relu())


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo])
def test_a_fixed_number_of_nodes_is_no_number_of_samples(layout):
    removed, _ = thinned_alike(Adjacency(layout), numbers(6, 5))
    assert removed == {"first.weight[0]": [1, 4, 7]}


class GraphAttention(nn.Module):
    """Heads and positions as numbers of the module, attention along edges."""

    def __init__(self, heads=3, size=4):
        super().__init__()
        self.heads, self.size = heads, size
        self.project, self.last = nn.Linear(5, heads * size, bias=False), nn.Linear(heads * size, 3)
        self.scores = nn.Parameter(torch.randn(heads, size))

    def forward(self, x, edges):
        sources, targets = edges
        y = self.project(x).view(-1, self.heads, self.size)
        score = functional.leaky_relu((y * self.scores).sum(-1), 0.2)
        weight = (score[sources] - score[targets]).exp()
        sums = torch.zeros_like(score).scatter_add(0, targets[:, None].expand(-1, self.heads), weight)
        messages = torch.zeros_like(y).index_add(0, targets, y[sources] * (weight / sums[targets])[..., None])
        return self.last(functional.elu(messages.view(-1, self.heads * self.size)))


@pytest.mark.slow
def test_graph_attention_loses_heads_and_positions():
    removed, _ = thinned_alike(GraphAttention(), (numbers(5, 5), EDGES), (numbers(7, 5), EDGES))
    assert len(removed) == 2


class Offsets(nn.Module):
    """Attention whose biases are looked up by position, as in LeViT: `table[:, positions]`."""

    def __init__(self, heads=4, size=3, positions=5):
        super().__init__()
        self.num_heads, self.size = heads, size
        self.qkv, self.last = nn.Linear(6, heads * size * 3), nn.Linear(heads * size, 2)
        self.table = nn.Parameter(torch.randn(heads, 2 * positions))
        places = torch.arange(positions)
        self.register_buffer("places", (places[:, None] - places + positions))

    def forward(self, x):
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).view(batch, count, self.num_heads, -1).split(self.size, dim=3)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        scores = q @ k.mT * 0.5 + self.table[:, self.places]
        return self.last((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, -1))


@pytest.mark.slow
def test_biases_by_position_leave_the_heads_alone():
    removed, graph = thinned_alike(Offsets(), numbers(2, 5, 6))
    assert any(("table", 0) in group.members for group in graph.groups() if group.name in removed)


ORDER = torch.tensor([3, 1, 0, 2, 5, 4, 7, 6])
PINNED = {
    "index": (lambda _, y: y[:, ORDER], "looked up by an index .index "),
    "index_select": (lambda _, y: y.index_select(1, ORDER), "looked up by an index .index_select "),
    "gather": (lambda _, y: y.gather(1, ORDER[None, :, None, None].expand(y.shape)), "looked up by an index .gather "),
    "index_add": (lambda _, y: torch.zeros_like(y).index_add(1, ORDER, y), "written by an index .index_add "),
    "indices for fewer channels": (
        lambda _, y: y.scatter_add(2, torch.zeros(2, 3, 1, 6, dtype=torch.long), y),
        "indices for a part of them only",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_channels_that_indices_name_are_pinned(name):
    function, reason = PINNED[name]
    graph = channel_graph(prepared(Between(function)), numbers(2, 3, 5, 6))
    assert re.search(reason, "; ".join(graph.why_pinned("first.weight")))


def test_entries_of_a_kept_order_go_with_what_reads_them():
    class Ordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.register_buffer("order", ORDER.clone())

        def forward(self, x):
            return self.last(self.first(x).relu()[:, self.order])

    removed, graph = thinned_alike(Ordered(), numbers(2, 3, 4, 4))
    assert removed == {"last.weight[1]": [1, 4, 7]}
    assert "looked up by an index" in graph.why_pinned("first.weight")[0]


def test_looked_up_rows_keep_the_channels_of_what_is_looked_up():
    def levels(self, y):
        table = torch.linspace(0, 1, 9, dtype=y.dtype)[:, None]
        return y * functional.embedding((y.sigmoid() * 8).long(), table)[..., 0]

    removed, _ = thinned_alike(Between(levels), numbers(2, 3, 5, 6))
    assert "first.weight[0]" in removed

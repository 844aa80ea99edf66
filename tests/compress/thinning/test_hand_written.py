"""Networks that strangers write: heads under any name, unrolled cells, products by indices, wrapped outputs."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.errors import UserError
from compress.graph.macs.count import count_macs
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, thinned_alike

TOKENS = numbers(2, 5, 12), numbers(3, 7, 12)
IMAGES = numbers(2, 3, 6, 6), numbers(3, 3, 8, 8)


class Attention(nn.Module):
    """Three heads of four, whose number is known under a name that no library uses; the rest of a row is -1."""

    @property
    def pieces(self):
        return self._parts

    def __init__(self, read):
        super().__init__()
        self._parts, self.config, self.frozen = 3, {"k": 3}, SimpleNamespace(k=3)
        self.qkv, self.out, self.read = nn.Linear(12, 36), nn.Linear(12, 5), read

    def forward(self, x):
        parts = self.qkv(x).view(*x.shape[:2], 3, self.read(self), -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.out(mixed.transpose(1, 2).flatten(2))


READS = {
    "property of a private number": lambda net: net.pieces,
    "dictionary": lambda net: net.config["k"],
    "namespace": lambda net: net.frozen.k,
}


@pytest.mark.parametrize("read", READS)
def test_heads_under_any_name_go_whole(read):
    """The scale of the softmax follows the size of a head, so that nothing else can go."""
    model = Attention(READS[read])
    removed, _ = thinned_alike(model, *TOKENS)
    assert list(removed) == ["qkv.weight[0]"]
    assert (model.qkv.out_features, READS[read](model)) == (24, 2)


def test_a_number_that_means_something_else_too_stays():
    model = Attention(lambda net: net.pieces * net.frozen.k // len(range(net.pieces)))
    assert not prunable_graph(model.double(), TOKENS[0]).groups(prunable_only=True)


class Pieces(nn.Module):
    """What counts the pieces averages over them, so that only the same positions of all can go."""

    def __init__(self):
        super().__init__()
        self.pieces = 3
        self.first, self.last = nn.Linear(12, 12), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x).view(*x.shape[:2], self.pieces, -1).mean(2))


def test_pieces_that_are_averaged_lose_positions():
    model = Pieces()
    thinned_alike(model, *TOKENS)
    assert (model.first.out_features, model.last.in_features, model.pieces) == (9, 3, 3)


class Cells(nn.Module):
    """Two cells, unrolled; the first states are zeros that the code around them makes."""

    def __init__(self, literal=False):
        super().__init__()
        self.width, self.literal = 9, literal
        self.first, self.second, self.last = nn.LSTMCell(12, 9), nn.GRUCell(9, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.width)
        state = torch.zeros(len(x), 6 if self.literal else self.second.hidden_size).to(x)
        for token in x.unbind(1)[:3]:
            h, c = self.first(token, (h, c))
            state = self.second(h, state)
        return self.last(state)


def test_first_states_of_unrolled_cells_follow():
    model = Cells()
    assert set(thinned_alike(model, *TOKENS)[0]) == {"first.weight_ih[0]", "second.weight_ih[0]"}
    assert model.width == model.first.hidden_size == 6


def test_a_literal_first_state_pins_its_cell_before_anything_is_removed():
    model = Cells(literal=True)
    assert set(thinned_alike(model, *TOKENS)[0]) == {"first.weight_ih[0]"}


class Products(nn.Module):
    """A convolution, a product, and a layer behind it."""

    def __init__(self, product, paired=False):
        super().__init__()
        self.first, self.last, self.product = nn.Conv2d(3, 8, 3), nn.Linear(6, 2), product
        self.weight = None if paired else nn.Parameter(torch.ones(8, 6))
        self.pair = nn.Bilinear(8, 8, 6) if paired else None

    def forward(self, x):
        return self.last(self.product(self, self.first(x)).relu())


PRODUCTS = {
    "tensordot": lambda net, x: torch.tensordot(x, net.weight, ([1], [0])),
    "tensordot from the left": lambda net, x: torch.tensordot(net.weight, x, ([0], [1])).permute(1, 2, 3, 0),
    "einsum with dots": lambda net, x: torch.einsum("...c,co->...o", x.movedim(1, -1), net.weight),
    "einsum without an arrow": lambda net, x: torch.einsum("ab,bc", x.mean((2, 3)), net.weight),
    "einsum over a broadcast": lambda net, x: torch.einsum("bchw,bcij,co->bo", x, x[:, :, :1, :1], net.weight),
    "bilinear": lambda net, x: net.pair(x.mean((2, 3)), x.amax((2, 3))),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_by_indices_lose_what_they_sum_over_and_what_they_yield(name):
    model = Products(PRODUCTS[name], name == "bilinear")
    thinned_alike(model, *IMAGES)
    assert model.last.in_features == 4
    assert model.first.out_channels == 5
    assert name != "bilinear" or (model.pair.in1_features, model.pair.in2_features) == (5, 5)


ORDERED = {
    "topk": lambda net, x: x.flatten(2).topk(6)[0],
    "sort": lambda net, x: x.flatten(2).sort(descending=True)[0][..., :6],
    "kthvalue": lambda net, x: torch.stack([x.flatten(2).kthvalue(k)[0] for k in range(1, 7)], 2),
    "cummax": lambda net, x: x.flatten(2).cummax(-1)[0][..., :6],
}


@pytest.mark.parametrize("name", ORDERED)
def test_an_order_over_space_lets_channels_pass(name):
    model = Products(lambda net, x: torch.einsum("bcn,co->bno", ORDERED[name](net, x), net.weight))
    thinned_alike(model, *IMAGES)
    assert model.first.out_channels == 5


def test_an_order_over_channels_stays():
    model = Products(lambda net, x: x.topk(6, 1)[0].movedim(1, -1), paired=True)
    assert "sorted along (topk in the model)" in prunable_graph(model, IMAGES[0].float()).why_pinned("first.weight")


@dataclasses.dataclass
class Output:
    """What a network returns."""

    score: torch.Tensor
    more: SimpleNamespace


class Wrapped(Products):
    """Its tensors are in the fields of objects."""

    def forward(self, x):
        y = self.first(x).relu().mean((2, 3))
        return Output(y @ self.weight, SimpleNamespace(by=[self.last(y @ self.weight)]))


def test_tensors_in_the_fields_of_an_object_are_outputs():
    model = Wrapped(None)
    graph = prunable_graph(model, IMAGES[0].float())
    assert graph.why_pinned("weight", 1) == graph.why_pinned("last.weight") == ("network output",)
    remove_units(model, graph, {"weight[0]": [0, 3]}, IMAGES[0].float())
    assert model.first.out_channels == 6
    assert isinstance(model(IMAGES[0].float()), Output)
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (
            {"first.weight[0]": [0], "wight[0]": [1]},
            r"the graph has no group 'first.weight\[0\]'; it has 'weight\[0\]'",
        ),
        ({"weight[0]": [1, 8]}, r"'weight\[0\]' has the units 0 to 7, and no unit 8; nothing was removed"),
        ({"weight[0]": [-1]}, r"no unit -1"),
    ],
)
def test_groups_and_units_that_are_not_there_are_named(removed, message):
    model = Wrapped(None)
    graph = prunable_graph(model, IMAGES[0].float())
    with pytest.raises(UserError, match=message):
        remove_units(model, graph, removed, IMAGES[0].float())
    assert model.first.out_channels == 8


def test_code_under_vmap_keeps_what_it_maps_over():
    model = Products(lambda net, x: torch.vmap(lambda row: row @ net.weight)(x.mean((2, 3))))
    graph = prunable_graph(model, IMAGES[0].float())
    assert "no rule for the operation (_add_batch_dim in the model)" in graph.why_pinned("first.weight")


@pytest.mark.parametrize("compile_part", [torch.jit.script, lambda part: torch.jit.trace(part, torch.ones(1, 8, 3, 3))])
def test_a_part_compiled_by_jit_is_named(compile_part):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), compile_part(nn.Conv2d(8, 9, 1)), nn.Conv2d(9, 2, 1))
    with pytest.raises(
        UserError, match="Sequential: its module '1' is compiled by torch.jit .* thin that, and compile"
    ):
        prunable_graph(model, IMAGES[0].float())


def test_an_exported_program_is_named():
    exported = torch.export.export(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval(), (torch.rand(2, 3),)).module()
    with pytest.raises(UserError, match=r"GraphModule: it comes from torch.export, .* and export the result"):
        prunable_graph(exported, torch.rand(2, 3))
    with pytest.raises(UserError, match="Sequential: its module '0' comes from torch.export"):
        prunable_graph(nn.Sequential(exported, nn.Linear(2, 3)), torch.rand(2, 3))


def test_macs_of_a_traced_part_are_counted():
    part = torch.jit.trace(nn.Conv2d(8, 9, 1), torch.ones(1, 8, 3, 3))
    assert count_macs(nn.Sequential(nn.Conv2d(3, 8, 3), part), torch.ones(1, 3, 6, 6)).total == 16 * (8 * 27 + 72)

"""Sizes from a module's numbers, from tensors, or from nowhere: what they count follows, or stays."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.compress.thinning.twins import Between, numbers, thinned_alike

IMAGE, OTHER = (2, 3, 6, 6), (3, 3, 8, 4)


def going(module):
    """What is gone from the first convolution, after the comparison with the masked twin."""
    removed, graph = thinned_alike(module, numbers(*IMAGE), numbers(*OTHER))
    return module.first.out_channels, removed, graph


def viewed(get):
    def function(module, x):
        b, _, h, w = x.shape
        return x.view(b, get(module), h, w)

    return function


KEPT = {
    "an attribute": (lambda m: m.breadth, {"breadth": 8}),
    "of several": (lambda m: m.breadth, {"breadth": 8, "levels": 8, "depth": 8}),
    "in a list": (lambda m: m.sizes[1], {"sizes": [3, 8, 4]}),
    "in a tuple": (lambda m: m.sizes[1], {"sizes": (3, 8, 4)}),
    "in a dictionary": (lambda m: m.options["wide"], {"options": {"wide": 8, "name": "x"}}),
    "in a configuration": (lambda m: m.config.net.wide, {"config": SimpleNamespace(net=SimpleNamespace(wide=8))}),
    "a half": (lambda m: m.twice // 2, {"twice": 16}),
    "a multiple": (lambda m: m.half * 2, {"half": 4}),
    "a sum": (lambda m: m.half + m.half, {"half": 4}),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_number_of_the_module_follows(kind):
    get, attributes = KEPT[kind]
    module = Between(viewed(get), **attributes)
    left, _, _ = going(module)
    assert left < 8
    assert get(module) == left


def test_a_shared_configuration_stays_as_it_is_for_others():
    config = SimpleNamespace(wide=8)
    module = Between(viewed(lambda m: m.config.wide), config=config)
    assert going(module)[0] < 8
    assert config.wide == 8


class Classed(Between):
    breadth = 8


def test_a_number_of_the_class_follows_in_the_module_alone():
    module = Classed(viewed(lambda m: m.breadth))
    assert going(module)[0] == module.breadth < 8
    assert Classed.breadth == 8


class Parent(nn.Module):
    """The size is kept above the module whose code goes by it."""

    def __init__(self):
        super().__init__()
        self.breadth = 8
        self.child = Between(lambda m, x: x.view(x.shape[0], m.given, *x.shape[2:]))

    def forward(self, x):
        self.child.__dict__["given"] = self.breadth
        return self.child(x)


def test_a_number_of_the_parent_follows():
    model = Parent()
    removed, _ = thinned_alike(model, numbers(*IMAGE), numbers(*OTHER))
    assert removed
    assert model.breadth == model.child.first.out_channels < 8


def test_a_number_that_counts_something_else_too_stays():
    """The width is also the height of the images, which cannot shrink."""

    def function(module, x):
        b, _, h, w = x.shape
        return x.view(b, module.six, h, w) + x.view(b, -1, module.six, w)

    left, removed, graph = going_literal(function, 6, six=6)
    assert (left, removed) == (6, {})
    assert any("computed from the model's six" in why for why in graph.why_pinned("first.weight"))


def going_literal(function, width, **attributes):
    module = Between(function, (3, width, width, 4), **attributes)
    removed, graph = thinned_alike(module, numbers(*IMAGE), numbers(3, *IMAGE[1:]))
    return module.first.out_channels, removed, graph


def test_a_literal_stays():
    left, removed, graph = going_literal(lambda m, x: x.view(x.shape[0], 8, *x.shape[2:]), 8)
    assert (left, removed) == (8, {})
    assert any("fixed in the code" in why for why in graph.why_pinned("first.weight"))


def added(make):
    return lambda module, x: x + make(module, x)


MADE = {
    "zeros": added(lambda m, x: torch.zeros(x.size(0), m.breadth, *x.shape[2:], dtype=x.dtype)),
    "ones": added(lambda m, x: torch.ones((1, m.breadth, 1, 1), dtype=x.dtype)),
    "zeros of a size": added(lambda m, x: torch.zeros(x.size(0), x.size(1), 1, 1, dtype=x.dtype)),
    "new_zeros": added(lambda m, x: x.new_zeros(x.shape)),
    "new_full": added(lambda m, x: x.new_full((1, m.breadth, 1, 1), 2.0)),
    "full": added(lambda m, x: torch.full((m.breadth, 1, 1), 2.0, dtype=x.dtype)),
    "empty, filled": added(lambda m, x: torch.empty(x.size(0), m.breadth, 1, 1, dtype=x.dtype).fill_(3)),
    "expand": lambda m, x: x.mean((2, 3), keepdim=True).expand(x.size(0), m.breadth, *x.shape[2:]) + x,
}


@pytest.mark.parametrize("kind", MADE)
def test_a_tensor_made_in_that_size_follows(kind):
    module = Between(MADE[kind], breadth=8)
    assert going(module)[0] < 8


CUTS = {
    "split in the module's two": (lambda m, x: torch.split(x, [m.one, m.two], 1)[::-1], {"one": 3, "two": 5}, True),
    "split in the module's one and the rest": (lambda m, x: x.split([m.one, x.size(1) - m.one], 1), {"one": 3}, True),
    "split by a quarter": (lambda m, x: x.split([x.size(1) // 4, x.size(1) - x.size(1) // 4], 1), {}, True),
    "split in parts of a number": (lambda m, x: x.split(m.half, 1)[::-1], {"half": 4}, True),
    "split in parts of a rounded number": (lambda m, x: x.split(int(x.size(1) * 0.5), 1)[::-1], {}, True),
    "split in a number twice and a literal": (lambda m, x: x.split([m.one, m.one, 2], 1)[::-1], {"one": 3}, True),
    "split in a number, a literal and a number": (lambda m, x: x.split([m.one, 2, m.one], 1), {"one": 3}, True),
    "split in a number twice and an even literal": (lambda m, x: x.split([m.two, 4, m.two], 1), {"two": 2}, True),
    "split by literals": (lambda m, x: x.split([3, 5], 1), {}, False),
    "split in literal halves": (lambda m, x: x.split(4, 1), {}, False),
    "slices by a number": (lambda m, x: (x[:, m.one :], x[:, : m.one]), {"one": 3}, True),
    "slices from the end": (lambda m, x: (x[:, -m.one :], x[:, : -m.one]), {"one": 3}, True),
    "slices by a half": (lambda m, x: (x[:, x.size(1) // 2 :], x[:, : x.size(1) // 2]), {}, True),
    "slices by a rounded half": (lambda m, x: (x[:, int(x.size(1) / 2) :], x[:, : int(x.size(1) / 2)]), {}, True),
    "slices by a literal": (lambda m, x: (x[:, :3].relu(), x[:, 3:]), {}, True),
    "slices by a literal half": (lambda m, x: (x[:, :4].relu(), x[:, 4:]), {}, True),
    "slices by a literal from the end": (lambda m, x: (x[:, -3:].relu(), x[:, :-3]), {}, True),
    "narrow by numbers": (lambda m, x: (x.narrow(1, m.one, m.two), x.narrow(1, 0, m.one)), {"one": 3, "two": 5}, True),
    "narrow by literals": (lambda m, x: (x.narrow(1, 3, 5), x.narrow(1, 0, 3)), {}, False),
    "tensor_split": (lambda m, x: x.tensor_split(2, 1)[::-1], {}, True),
    "unsafe_chunk": (lambda m, x: x.unsafe_chunk(2, 1)[::-1], {}, True),
    "hsplit": (lambda m, x: x.hsplit(2)[::-1], {}, True),
}


@pytest.mark.parametrize("kind", CUTS)
def test_cuts_follow_numbers_and_stay_at_literals(kind):
    cut, attributes, goes = CUTS[kind]
    module = Between(lambda m, x: torch.cat([part * (k + 1) for k, part in enumerate(cut(m, x))], 1), **attributes)
    left, _, graph = going(module)
    assert (left < 8) == goes, graph.describe()
    if not goes:
        assert any("the code fixes" in why for why in graph.why_pinned("first.weight"))

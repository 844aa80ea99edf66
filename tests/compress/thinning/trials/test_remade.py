"""Tables that code beside the network's classes makes anew for another size of the input: what they meet stays."""

import functools

import pytest
import torch
from torch import nn

from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, thinned_alike


def table(rows, width):
    return (torch.arange(rows)[:, None] * torch.exp(-torch.arange(width) / width)).sin()


class Positions(nn.Module):
    """A table of 8 rows is added to the tokens; how one of more rows is got is the helper's code."""

    def __init__(self, helper):
        super().__init__()
        self.first, self.last, self.helper = nn.Linear(5, 9), nn.Linear(9, 3), helper
        self.longest, self.part = 8, nn.Module()
        self.register_buffer("table", table(8, 9))
        self.part.register_buffer("table", table(8, 9))

    def forward(self, x):
        return self.last(self.first(x).relu() * (2 + self.helper(self, x.shape[1])))


def assigned(module, rows):
    if module.table.shape[0] < rows:
        module.table = table(rows, module.table.shape[1]).to(module.table)
    return module.table[:rows]


def of_a_part(module, rows):
    return assigned(module.part, rows)


class Helper:
    def __call__(self, module, rows):
        if len(module.table) < rows:
            setattr(module, "table", table(rows, module.first.out_features))  # noqa: B010
        return module.table[:rows]


def by_data(module, rows):
    if len(module.table) < rows:
        module.table.data = table(rows, module.first.out_features).to(module.table)
    return module.table[:rows]


def by_a_number(module, rows):
    if rows > module.longest:
        module.longest, module.table = rows, table(rows, module.first.out_features)
    return module.table[:rows]


def in_steps(module, rows):
    while len(module.table) < rows:
        more = table(4, module.table.shape[1]) + len(module.table)
        module.table = torch.cat([module.table, more.to(module.table)])
    return module.table[:rows]


@functools.lru_cache
def kept(rows, width):
    return table(rows, width)


def left_aside(module, rows):
    return module.table if len(module.table) == rows else kept(rows, module.table.shape[1]).to(module.table)


def by_its_length(module, rows):
    name = f"table{rows}"
    if not hasattr(module, name):
        module.register_buffer(name, table(rows, module.first.out_features).to(module.table))
    return getattr(module, name)


def once_more(module, rows):
    """A mask of the channels alone, for each length."""
    if module.longest != rows:
        module.longest, module.mask = rows, torch.arange(module.first.out_features).fmod(3).to(module.table)
    return module.mask


REMADE = {each.__name__: each for each in (assigned, of_a_part, by_data, by_a_number, in_steps, left_aside)}
REMADE |= {"an object": Helper(), "by_its_length": by_its_length, "once_more": once_more}


@pytest.mark.parametrize("name", REMADE)
def test_a_table_that_is_made_anew_keeps_the_channels(name):
    model = Positions(REMADE[name])
    model.register_buffer("table8", table(8, 9))
    model.register_buffer("mask", torch.arange(9).fmod(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (group,) = prunable_graph(model, torch.randn(2, 8, 5)).groups_of("first.weight")
    assert any("anew in a branch that no trace shows" in why for why in group.pinned), str(group)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def interpolated(module, rows):
    if len(module.table) < rows:
        module.table = nn.functional.interpolate(module.table.T[None], rows)[0].T
    return module.table[:rows]


def repeated(module, rows):
    return module.table[:rows] if rows <= len(module.table) else module.table.repeat(9, 1)[:rows]


def cut(module, rows):
    return module.table[:rows]


@pytest.mark.parametrize("helper", [interpolated, repeated, cut])
def test_a_table_that_follows_from_what_is_left_goes(helper):
    given = [numbers(2, 8, 5), *([numbers(2, 20, 5)] if helper is not cut else [])]
    removed, _ = thinned_alike(Positions(helper), *given)
    assert "first.weight[0]" in removed

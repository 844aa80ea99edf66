"""Buffers that forward may make anew for another size of image: what they meet stays. Updates do not count."""

import pytest
import torch
from torch import nn

from compress.graph.channels import channel_graph


def table(channels, height):
    return torch.arange(channels * height).view(1, channels, height, 1).sin()


class Cached(nn.Module):
    """A table of 8 channels and 8 rows is added; how it is got for another height is the subclasses' code."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.width = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), 8
        self.register_buffer("table", table(8, 8), persistent=False)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.fitting(x))


class Assigned(Cached):
    def fitting(self, x):
        if self.table.shape[2] != x.shape[2]:
            self.table = table(x.shape[1], x.shape[2])
        return self.table


class AssignedByItsShape(Cached):
    def fitting(self, x):
        if self.table.shape[2] < x.shape[2]:
            self.table = table(self.table.shape[1], x.shape[2]).to(self.table)
        return self.table[:, :, : x.shape[2]]


class AssignedByItsLength(Cached):
    def fitting(self, x):
        if self.table.shape[2] < x.shape[2]:
            self.table = self.table.new_tensor(table(len(self.table[0]), x.shape[2])).type_as(self.table)
        return self.table[:, :, : x.shape[2]]


class AssignedInAMethod(Cached):
    def fitting(self, x):
        if self.rows(x) > 8:
            self.build(x.shape[2])
        return self.table[:, :, : x.shape[2]]

    def rows(self, x):
        return x.shape[2]

    def build(self, height):
        self.table = table(self.width, height)


class Registered(Cached):
    def fitting(self, x):
        if x.shape[2] > 8:
            self.register_buffer("table", table(self.width, x.shape[2]), persistent=False)
        return self.table


class Written(Cached):
    def fitting(self, x):
        if x.shape[2] > 8:
            self.table.data = table(self.width, x.shape[2])
        return self.table


class LeftAside(Cached):
    def fitting(self, x):
        return self.table if x.shape[2] <= self.table.shape[2] else table(x.shape[1], x.shape[2])


class LeftAsideInStatements(Cached):
    def fitting(self, x):
        if x.shape[2] == self.table.size(2):
            made = self.table
        else:
            height = x.shape[2]
            made = table(self.width, height)
        return made


REPLACED = [
    Assigned, AssignedByItsShape, AssignedByItsLength, AssignedInAMethod, Registered, Written, LeftAside,
    LeftAsideInStatements,
]  # fmt: skip


@pytest.mark.parametrize("kind", REPLACED)
def test_what_a_table_meets_that_may_be_made_anew_stays(kind):
    (group,) = channel_graph(kind(), torch.zeros(2, 3, 8, 8)).groups_of("first.weight")
    assert any("may make table anew" in why for why in group.pinned), str(group)


class Resized(Cached):
    def fitting(self, x):
        fits = self.table.shape[2] == x.shape[2]
        return self.table if fits else nn.functional.interpolate(self.table, x.shape[2:])


class ResizedInPlace(Cached):
    def fitting(self, x):
        if self.table.shape[2] != x.shape[2]:
            self.table = nn.functional.interpolate(self.table, x.shape[2:])
        return self.table


class Checked(Cached):
    def fitting(self, x):
        if self.table.shape[2] < x.shape[2]:
            raise ValueError("larger than the table")
        return self.table


class Updated(Cached):
    def fitting(self, x):
        if self.training:
            self.table = 0.9 * self.table + 0.1 * x.mean((0, 2, 3), keepdim=True)
        return self.table


class Elsewhere(Cached):
    def fitting(self, x):
        return self.table

    def reset(self):
        if self.width:
            self.table = table(self.width, 8)


@pytest.mark.parametrize("kind", [Resized, ResizedInPlace, Checked, Updated, Elsewhere])
def test_what_follows_from_what_is_left_goes(kind):
    assert any(group.prunable for group in channel_graph(kind(), torch.zeros(2, 3, 8, 8)).groups_of("first.weight"))

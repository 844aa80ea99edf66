"""Deformable convolutions: filters and channels go, where they read stays."""

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import numbers, prepared, thinned_alike


class Deformed(nn.Module):
    def __init__(self, groups=1, bias=True, offsets=1):
        super().__init__()
        self.first, self.where = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 18 * offsets, 3, padding=1)
        self.mask = nn.Conv2d(8, 9 * offsets, 1)
        self.deformed, self.last = DeformConv2d(8, 6, 3, padding=1, groups=groups, bias=bias), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.deformed(x, self.where(x), self.mask(x).sigmoid()))


@pytest.mark.parametrize("bias", [True, False])
def test_filters_and_channels_follow(bias):
    torch.manual_seed(0)
    removed, graph = thinned_alike(Deformed(bias=bias), numbers(2, 3, 6, 6), numbers(3, 3, 8, 6))
    assert set(removed) == {"first.weight[0]", "deformed.weight[0]"}, graph.describe()
    assert "where a deformable convolution reads" in graph.why_pinned("where.weight")[0]


def test_groups_stay():
    graph = prunable_graph(prepared(Deformed(groups=2)), numbers(2, 3, 6, 6))
    assert "no rule for the operation" in graph.why_pinned("deformed.weight")[0]


def test_groups_of_offsets_lose_the_same_positions():
    torch.manual_seed(0)
    removed, graph = thinned_alike(Deformed(offsets=2), numbers(2, 3, 6, 6), numbers(3, 3, 8, 6))
    assert set(removed) == {"first.weight[0]", "deformed.weight[0]"}, graph.describe()
    assert graph.groups_of("first.weight")[0].units == 4

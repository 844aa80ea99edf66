"""The tables of `--list-groups` leave nothing out."""

import torch
from torch import nn

from compress.analysis.listings.channel_groups import group_tables
from compress.graph.channels import channel_graph
from tests.compress.graph.nets import resnet_cifar


def test_every_member_is_shown_however_many_there_are():
    graph = channel_graph(resnet_cifar(3, (4, 6, 8)), torch.zeros(1, 3, 8, 8))
    largest = max(graph.groups(prunable_only=True), key=lambda group: len(group.members))
    assert len(largest.members) > 20
    text = group_tables(graph)
    assert "more" not in text
    shown = {word.rstrip(",") for word in text.split()}
    assert {f"{name}[{dim}]" for name, dim in largest.members} <= shown


def test_pinned_groups_show_what_they_are_made_of():
    graph = channel_graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 9, 9))
    row = next(line for line in group_tables(graph).splitlines() if line.startswith("1.weight[0] "))
    assert row.split()[:3] == ["1.weight[0]", "4", "73"]  # 8 * 9 weights and a bias
    assert "1.weight[0], 1.bias[0]" in row
    assert "network output" in row


class Shuffled(nn.Module):
    """A shuffle between group norms ties all channels."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.norm(self.norm(self.first(x)).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)))


def test_a_single_unit_has_its_reason():
    graph = channel_graph(Shuffled(), torch.zeros(1, 3, 9, 9))
    assert "first.weight[0]: 1 unit, pinned: all its positions leave together, as one unit" in graph.describe()
    assert "all its positions leave together" in group_tables(graph)

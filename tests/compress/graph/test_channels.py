"""Which channels belong together, why others stay, and what a unit costs."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.graph.channels import channel_graph
from compress.graph.macs.count import count_macs
from compress.graph.units import Units
from compress.thinning.thin import remove_units
from tests.compress.graph.nets import resnet_cifar


def test_units_tie_and_pin():
    units = Units()
    a, b = units.fresh(3), units.fresh(3)
    units.tie(a, b)
    units.pin(b[:1], "network output")
    assert units.roots(b).tolist() == [0, 1, 2]
    assert units.pinned() == {0: ["network output"]}


def test_units_tie_along_an_axis():
    units = Units()
    left = units.tie_along(units.fresh(6).reshape(2, 3), 0)
    assert left.tolist() == [0, 1, 2]
    assert units.roots(np.arange(6)).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("count", [10, 5000])
def test_units_agree_with_a_plain_search(count):
    """Random ties against connected components found by spreading labels until nothing changes."""
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, count, (2, count // 2))
    units = Units()
    units.fresh(count)
    units.tie(*pairs)
    labels = np.arange(count)
    while True:
        least = np.minimum(labels[pairs[0]], labels[pairs[1]])
        spread = labels.copy()
        np.minimum.at(spread, pairs[0], least)
        np.minimum.at(spread, pairs[1], least)
        if np.array_equal(spread, labels):
            break
        labels = spread
    roots = units.roots(np.arange(count))
    assert len(np.unique(roots)) == len(np.unique(labels))
    assert len(np.unique(np.stack([roots, labels]), axis=1).T) == len(np.unique(labels))


def test_a_chain():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = channel_graph(model, torch.zeros(1, 3, 9, 9))
    (group,) = graph.groups(prunable_only=True)
    assert (group.units, group.prunable) == (8, 7)
    assert set(group.members) == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}
    assert group.positions(("2.weight", 1), 3).tolist() == [3]
    assert graph.why_pinned("2.weight", 0) == ("network output",)
    assert "such as a network input (conv2d in 0)" in graph.why_pinned("0.weight", 1)[0]


def test_a_residual_stage_is_one_group():
    graph = channel_graph(resnet_cifar(1), torch.zeros(2, 3, 32, 32))
    (group,) = graph.groups_of("0.weight")
    assert ("3.conv2.weight", 0) in group.members
    assert ("4.downsample.0.weight", 1) in group.members
    assert ("1.running_var", 0) in group.members
    assert ("3.conv1.weight", 0) not in group.members


class Cat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.last(torch.cat([self.a(x), self.b(x)], 1))


def test_concatenation_keeps_the_sources_apart():
    graph = channel_graph(Cat(), torch.zeros(1, 3, 4, 4))
    first, second = graph.groups(prunable_only=True)
    assert (first.units, second.units) == (2, 4)
    assert first.members["last.weight", 1].tolist() == [0, 1, -1, -1, -1, -1]
    assert second.members["last.weight", 1].tolist() == [-1, -1, 0, 1, 2, 3]


def test_flatten_repeats_each_channel():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 5))
    (group,) = channel_graph(model, torch.zeros(1, 3, 2, 2)).groups(prunable_only=True)
    assert group.members["2.weight", 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_pixel_shuffle_takes_blocks():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 1))
    (group,) = channel_graph(model, torch.zeros(1, 3, 2, 2)).groups(prunable_only=True)
    assert group.members["0.weight", 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


class Sort(nn.Module):
    def forward(self, x):
        return x.sort(1)[0]


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (nn.LayerNorm([8, 4, 4]), "of an image `nn.GroupNorm(1, C)` has the mean"),
        (nn.RMSNorm([8, 4, 4]), "norm over the channels and other dimensions at once"),
        (nn.Softmax(1), "over the channels"),
        (nn.LocalResponseNorm(3), "pooled or resized along"),
        (Sort(), "sorted along (sort in 1)"),
    ],
)
def test_what_mixes_channels_pins_them(middle, reason):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), middle, nn.Conv2d(8, 3, 1))
    graph = channel_graph(model, torch.zeros(1, 3, 4, 4))
    assert not graph.groups(prunable_only=True)
    assert any(reason in why for why in graph.why_pinned("0.weight"))


class SpatialGate(nn.Module):
    """The mean over channels, which would change with each that goes."""

    def __init__(self, reduce):
        super().__init__()
        self.first, self.last, self.reduce = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 3, 1), reduce

    def forward(self, x):
        return self.last(self.reduce(self.first(x).relu()))


def test_a_mean_over_channels_pins_and_a_sum_of_zeros_does_not():
    image = torch.zeros(1, 3, 4, 4)
    mean = channel_graph(SpatialGate(lambda x: x.mean(1, keepdim=True)), image)
    total = channel_graph(SpatialGate(lambda x: x.sum(1, keepdim=True)), image)
    shifted = channel_graph(SpatialGate(lambda x: (x + 1).sum(1, keepdim=True)), image)
    assert [len(graph.groups(prunable_only=True)) for graph in (mean, total, shifted)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("groups", "units"),
    [(8, {"0.weight": 8, "1.weight": 8}), (2, {"0.weight": 8, "1.weight": 8}), (16, {"0.weight": 16, "1.weight": 16})],
)
def test_grouped_convolution(groups, units):
    """Whole groups where there are many, positions within the groups where there are few."""
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=groups), nn.Conv2d(16, 3, 1))
    graph = channel_graph(model, torch.zeros(1, 3, 4, 4))
    assert {name: graph.groups_of(name)[0].units for name in units} == units
    assert ("1" in graph.block_modules) == (groups > 2)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_the_cost_of_a_unit_is_what_its_removal_saves(index):
    """Parameters and MACs per unit against counts before and after."""
    model, image = resnet_cifar(1, (8, 12, 16)).eval(), torch.randn(2, 3, 16, 16)
    graph = channel_graph(model, image)
    group = graph.groups(prunable_only=True)[index]
    before = count_macs(model, image)
    remove_units(model, graph, {group.name: [1]}, image)
    after = count_macs(model, image)
    assert before.parameters - after.parameters == pytest.approx(group.parameters_per_unit)
    assert before.total - after.total == pytest.approx(group.macs_per_unit)


def test_a_bias_costs_no_multiply_accumulates():
    model = nn.Sequential(nn.Conv2d(3, 9, 3), nn.Conv2d(9, 4, 1))
    group = channel_graph(model, torch.zeros(1, 3, 8, 8)).groups(prunable_only=True)[0]
    assert group.macs_per_unit == pytest.approx(36 * 3 * 9 + 36 * 4)


def test_groups_describe_themselves():
    text = channel_graph(resnet_cifar(1), torch.zeros(2, 3, 32, 32)).describe()
    first, last = text.splitlines()[0], text.splitlines()[-1]
    assert first.startswith("0.weight[0]: 16 units, 15 prunable; 639 parameters and 808,960 MACs each; members")
    assert "pinned: network output" in last


class ByMask(nn.Module):
    """Looks up what a mask picks, so that a size depends on values (HVI-CIDNet)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)
        self.pick = nn.Linear(6, 5)

    def forward(self, x):
        y = self.first(x)
        seen = y[:, 0] > 0.1
        picked = self.pick(y.permute(0, 2, 3, 1)[seen]).sum()
        return self.last(self.second(y).relu()) * picked


class OwnWeight(nn.Module):
    """Replaces a weight in forward (SPAN)."""

    def __init__(self):
        super().__init__()
        self.wide, self.used, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        self.used.weight.data = (2 * self.wide.weight).detach()
        return self.last(self.used(x).relu())


def test_sizes_that_depend_on_values_pin_and_the_rest_is_free():
    graph = channel_graph(ByMask(), torch.zeros(2, 3, 8, 8))
    assert any("a size depends on values" in reason for reason in graph.why_pinned("first.weight"))
    assert not graph.why_pinned("second.weight")
    report = count_macs(ByMask(), torch.zeros(2, 3, 8, 8))
    assert report.total == 2 * 64 * (3 * 6 + 6 * 4 + 4 * 2)
    assert "linear in pick" in report.left_out


def test_a_weight_replaced_in_forward_is_said():
    graph = channel_graph(OwnWeight(), torch.zeros(2, 3, 8, 8))
    assert any("forward replaces a weight through `.data`" in reason for reason in graph.why_pinned("used.weight"))

"""Code that computes with a number of channels: the list of groups says that they stay, before anything is masked."""

import math

import numpy as np
import pytest
from torch import nn

from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import Between, numbers, prepared, thinned_alike

IMAGE = (2, 3, 6, 6)
COMPUTED = {
    "power": lambda net, x: x / x.shape[1] ** 0.5,
    "square root": lambda net, x: x / math.sqrt(x.size(1)),
    "numpy": lambda net, x: x * float(1 / np.sqrt(x.size(dim=1))),
    "float by number": lambda net, x: x * (1.0 / x.shape[-3]),
    "the number itself": lambda net, x: x * x.shape[1],
    "all elements": lambda net, x: x / x.numel() ** 0.25,
    "a mean by hand": lambda net, x: x - x.sum(1, keepdim=True) / x.shape[1],
    "of another tensor": lambda net, x: x.relu() * x.flatten(2).permute(0, 2, 1).shape[-1] ** -0.5,
    "of the layer": lambda net, x: x * net.first.out_channels**-0.5,
    "of the layer that reads": lambda net, x: x / net.last.in_channels,
    "of the module": lambda net, x: x.reshape(x.size(0), net.hidden, *x.shape[2:]) * net.hidden**-0.5,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_computes_with_a_width_is_pinned_in_the_list(name):
    class Reads(Between):
        """The source of its own code is looked at."""

        def widths(self):
            return self.first.out_channels, self.last.in_channels

    graph = prunable_graph(prepared(Reads(COMPUTED[name], hidden=8)), numbers(*IMAGE))
    (reason,) = graph.why_pinned("first.weight")
    assert "a number in" in reason
    assert "follows the width" in reason
    assert not graph.groups(prunable_only=True)


def test_a_size_that_only_keeps_a_shape_pins_nothing():
    net = Between(lambda net, x: x.reshape(x.shape[0], x.shape[1], -1).relu().view(x.shape))
    removed, _ = thinned_alike(net, numbers(*IMAGE), numbers(3, 3, 4, 8))
    assert set(removed) == {"first.weight[0]"}


def test_the_rest_of_the_network_goes_on():
    net = nn.Sequential(Between(COMPUTED["power"]), nn.ReLU(), Between(lambda net, x: x.relu(), (4, 6, 6, 2)))
    removed, graph = thinned_alike(net, numbers(*IMAGE))
    assert set(removed) == {"0.last.weight[0]", "2.first.weight[0]"}, graph.describe()

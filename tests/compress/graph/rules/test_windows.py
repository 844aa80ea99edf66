"""Windows over space, unpooling by indices, quarter turns, projected LSTMs, layers whose weight a function reads."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.compress.thinning.twins import Between, numbers, thinned_alike

IMAGE, OTHER = (2, 3, 6, 6), (3, 3, 8, 6)


def unpooled(x):
    y, places = functional.max_pool2d(x, 2, return_indices=True)
    return functional.max_unpool2d(y.tanh(), places, 2)


def unpooled_lines(x):
    y, places = functional.max_pool1d(x.flatten(2), 2, return_indices=True)
    return functional.max_unpool1d(y, places, 2).view_as(x)


def largest_of_windows(x):
    return functional.unfold(x, 3, padding=1).view(x.size(0), x.size(1), 9, -1).amax(2).view(x.shape)


EXACT = {
    "unpooling": unpooled,
    "unpooling of lines": unpooled_lines,
    "unfold and fold": lambda x: functional.fold(functional.unfold(x, 3, padding=1).tanh(), x.shape[2:], 3, padding=1),
    "the largest of a window": largest_of_windows,
    "windows by the tensor's method": lambda x: x.unfold(2, 3, 1).sum(-1).unfold(3, 2, 2).mean(-1),
    "a quarter turn": lambda x: torch.rot90(x, 1, (2, 3)),
    "three quarter turns": lambda x: torch.rot90(x, 3, (-1, -2)).relu(),
    "half a turn, channels too": lambda x: torch.rot90(x, 2, (1, 3)),
    "channels turned into space and back": lambda x: torch.rot90(torch.rot90(x, 1, (1, 2)).relu(), -1, (1, 2)),
}


@pytest.mark.parametrize("name", EXACT)
def test_goes_exactly(name):
    net = Between(lambda net, x: EXACT[name](x))
    removed, graph = thinned_alike(net, numbers(*IMAGE), numbers(*OTHER))
    assert set(removed) == {"first.weight[0]"}, graph.describe()


class Projected(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.lift, self.cell = nn.Linear(5, 6), nn.LSTM(6, 9, batch_first=True, **settings)
        self.out = nn.Linear(settings["proj_size"] * (1 + settings.get("bidirectional", False)), 3)

    def forward(self, x):
        y, (_, memory) = self.cell(self.lift(x))
        return self.out(y), memory.sum(-1)


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_an_lstm_loses_hidden_units_and_what_they_are_projected_to(settings):
    net = Projected(proj_size=6, **settings)
    removed, _ = thinned_alike(net, numbers(2, 4, 5), numbers(3, 7, 5))
    assert (net.cell.hidden_size, net.cell.proj_size, net.cell.input_size) == (6, 4, 4)
    assert len(removed) == 3


class ByFunction(nn.Module):
    """Reads the weights of its layers and not their biases."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 6, 3), layer, nn.Conv2d(6, 4, 1)

    def forward(self, x):
        weight = self.layer.weight
        weight = weight[:, :, None, None] if weight.dim() == 2 else weight
        function = functional.conv_transpose2d if isinstance(self.layer, nn.ConvTranspose2d) else functional.conv2d
        return self.last(function(self.first(x).relu(), weight).relu())


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 6, 3), nn.ConvTranspose2d(6, 6, 3), nn.Linear(6, 6)], ids=str)
def test_a_bias_that_no_function_reads_goes_along(layer):
    net = ByFunction(layer)
    removed, _ = thinned_alike(net, numbers(*IMAGE), numbers(*OTHER))
    assert len(removed) == 2
    assert len(layer.bias) == 4

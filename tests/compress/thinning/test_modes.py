"""Training mode is another function: found wherever the code hides it, and undone where a model switches itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.errors import UserError
from compress.graph.own_code import asks_for_training
from compress.graph.trace import trace_model
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import Between, numbers, prepared, thinned_alike

IMAGES = numbers(2, 3, 6, 6)


class Trained(nn.Module):
    """A layer that is a function in training mode and nothing in eval mode."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) if self.training else x


LAYERS = {
    "a mean": lambda x: x / x.abs().mean(),
    "a count": lambda x: x * x.shape[1],
    "images alone": lambda x: x.flip(1) if x.dim() == 4 else x,
    "large numbers": lambda x: x if x.abs().max() <= 1 else x * x.shape[1],
}


def beside(net, x):
    return x * x.shape[1] if net.training else x


class Helped(Between):
    """Asks a function beside the class."""

    def forward(self, x):
        return self.last(functional.relu(beside(self, self.first(x))))


class Switched(Between):
    """Switches itself, and merges a weight into another in eval mode."""

    def __init__(self):
        super().__init__(None)
        self.wide, self.update, self.merged = True, nn.Parameter(torch.rand(8, 3, 3, 3)), False

    def train(self, mode=True):
        super().train(mode)
        if self.merged is mode:
            self.first.weight.data += self.update.data * (-1 if mode else 1)
            self.merged = not mode
        self.wide = mode
        return self

    def forward(self, x):
        weight = self.first.weight if self.merged else self.first.weight + self.update
        y = functional.conv2d(x, weight, self.first.bias, padding=1)
        return self.last(y * y.shape[1] if self.wide else y)


def hooked():
    net = Between(lambda net, x: x)
    net.first.register_forward_hook(lambda module, _, result: result * result.shape[1] if module.training else result)
    return net


def enclosed():
    def within(net, x):
        return x * x.shape[1] if net.training else x

    class Enclosed(Between):
        def forward(self, x):
            return self.last(within(self, self.first(x)))

    return Enclosed(None)


NETS = {
    "closure": enclosed,
    "function": lambda: Helped(None),
    "hook": hooked,
    "switch": Switched,
}


class Layered(Between):
    """With a layer in between."""

    def __init__(self, layer):
        super().__init__(None)
        self.layer = layer

    def forward(self, x):
        return self.last(functional.relu(self.layer(self.first(x))))


def refuses(model):
    """Nothing leaves the first layer: it is pinned, or the proof fails."""
    prepared(model).eval()
    graph = prunable_graph(model, IMAGES)
    group = next(each for each in graph.groups() if ("first.weight", 0) in each.members)
    if group.prunable:
        with pytest.raises(UserError, match="not thinned"):
            remove_units(model, graph, {group.name: [1]}, IMAGES)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_does_more_than_to_drop(kind):
    net = Layered(Trained(LAYERS[kind]))
    assert asks_for_training(net)
    if kind in ("a count", "large numbers"):
        refuses(net)
    else:
        assert thinned_alike(net, IMAGES)[0]


@pytest.mark.parametrize("kind", NETS)
def test_code_beside_the_forward_that_asks_for_training(kind):
    net = NETS[kind]()
    assert asks_for_training(net)
    refuses(net)


def test_a_model_that_switches_itself_is_as_before():
    net = Switched().eval()
    values = {name: each.clone() for name, each in net.state_dict().items()}
    for training in (True, False):
        trace_model(net, IMAGES.float(), training)
        assert (net.wide, net.merged, net.training) == (False, True, False)
        assert all(torch.equal(each, values[name]) for name, each in net.state_dict().items())


class Frozen(Between):
    """Cannot be trained."""

    def train(self, mode=True):
        super().train(mode)
        if mode:
            raise NotImplementedError("it is frozen")
        return self


def test_a_model_that_cannot_be_put_into_training_mode_is_proved_in_eval_mode():
    net = prepared(Frozen(lambda net, x: x).eval())
    graph = prunable_graph(net, IMAGES)
    remove_units(net, graph, {"first.weight[0]": [1]}, IMAGES)
    assert (net.first.out_channels, net.training, net.first.training) == (7, False, False)

"""What a counter keeps closed, what runs in training mode only, and what only a backward pass computes.

The masked twin and the thinned network get the same new values, with the switch on, and are trained alike, in float64.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import Divided
from tests.compress.thinning.test_blocks import third
from tests.compress.thinning.twins import numbers, train

IMAGE = numbers(2, 3, 4, 4)
SLOW = pytest.mark.slow


class Part(nn.Module):
    """One convolution up and one down, without modules of their own, between two of others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.stem = nn.Conv2d(3, 9, 1), nn.Conv2d(9, 6, 1)
        self.up, self.down = (nn.Parameter(torch.randn(*sizes, 1, 1)) for sizes in ((12, 6), (6, 12)))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("off", torch.tensor(True))
        self.last = nn.Conv2d(6, 2, 1)
        self.double()

    def forward(self, x):
        x = self.stem(self.before(x).relu())
        return self.last(self.joined(x, functional.conv2d(self.inner(functional.conv2d(x, self.up)), self.down)))

    def joined(self, x, y):
        return torch.where(self.step > 1000, y, x)

    def inner(self, y):
        return y


class Repeats(Part):
    def inner(self, y):
        for _ in range(y.shape[1] // 4):
            y = y.tanh()
        return y


class Window(Part):
    def inner(self, y):
        side = y.shape[1] // 4 * 2 + 1
        return functional.avg_pool2d(y, side, 1, side // 2)


class Chooses(Part):
    def inner(self, y):
        return y.tanh() if y.shape[1] >= 12 else y.sigmoid()


class Flag(Window):
    def joined(self, x, y):
        return x + y * (~self.off)


class Follows(Part):
    def inner(self, y):
        return y.relu()


class OwnGradient(Part):
    def joined(self, x, y):
        return x + y

    def inner(self, y):
        return Divided.apply(y)


class HookedGradient(OwnGradient):
    def inner(self, y):
        y = y.relu()
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient / y.shape[1])
        return y


class Drops(OwnGradient):
    """The share that is dropped goes by the width, which no values show."""

    def inner(self, y):
        return functional.dropout(y, 1 / y.shape[1], self.training)


def dropped(y, training):
    share = 1 / y.shape[1]
    return functional.dropout2d(y, p=share if training else 0.0) if share < 1 else y


class DropsInHelper(OwnGradient):
    def inner(self, y):
        return dropped(y, self.training)


class DropsLocally(OwnGradient):
    def inner(self, y):
        share = 1 / y.shape[1]
        return functional.dropout(y, share, self.training)


class DropsImages(OwnGradient):
    def inner(self, y):
        return y * torch.empty(len(y), 1, 1, 1).bernoulli_(1 / y.shape[1]) if self.training else y


class Trained(OwnGradient):
    """Fails in training mode only."""

    def inner(self, y):
        return y.view(-1, 12, *y.shape[2:]).relu() if self.training else y.relu()


def thinned_and_switched_on(kind):
    """What is gone of `up`; checks both networks after three steps of SGD (1e-9)."""
    model = kind()
    twin, graph = copy.deepcopy(model), prunable_graph(model, IMAGE)
    wanted = {
        name: units for name, units in third(graph).items() if name in ("up[0]", "before.weight[0]", "stem.weight[0]")
    }
    result = remove_units(model, graph, wanted, IMAGE)
    masks = masks_of(graph, result.removed, dict(twin.named_parameters()))
    put_on(twin, masks)
    for net, keep in ((twin, masks), (model, {})):
        net.step.fill_(2000)
        net.off.fill_(False)
        torch.manual_seed(0)  # both drop the same
        train(net, IMAGE, keep)
    outputs = []
    for net in (model, twin):
        torch.manual_seed(0)
        outputs.append(net(numbers(3, 3, 8, 4)))
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    assert "before.weight[0]" in result.removed
    return result.removed.get("up[0]"), graph.why_pinned("up"), result.notes


@pytest.mark.parametrize("kind", [
    *(pytest.param(kind, marks=SLOW) for kind in (
        Repeats, Chooses, Flag, HookedGradient, DropsImages, DropsLocally, DropsInHelper
    )),
    Window, OwnGradient, Trained, Drops,
])  # fmt: skip
def test_what_does_not_follow_stays_and_the_rest_goes(kind):
    gone, pinned, notes = thinned_and_switched_on(kind)
    assert not gone
    why = " ".join((*pinned, *notes))
    assert "a trial without some of it" in why
    assert "Divided changes it" in why or kind is not OwnGradient


def test_what_follows_goes_behind_a_switch_too():
    assert thinned_and_switched_on(Follows)[0]


def test_a_size_of_a_parameter_is_found_in_the_list():
    class Divides(OwnGradient):
        def inner(self, y):
            return y / self.up.shape[0]

    class Counts(OwnGradient):
        def inner(self, y):
            return y / len(y[0])

    for kind in (Divides, Counts):
        why = "".join(prunable_graph(kind(), IMAGE).why_pinned("up"))
        assert "a number in div follows the width: 12 becomes 11" in why

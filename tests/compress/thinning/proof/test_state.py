"""State that a network keeps outside its buffers is, after a look or a refusal, what it was; containers stay."""

import contextlib

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.calls import Unused
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import Two, thinned_and_trained
from tests.compress.thinning.twins import numbers

IMAGE = numbers(2, 3, 4, 4)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.state = self.empty()
        self.double()

    def empty(self):
        return {"mean": torch.zeros((), dtype=torch.float64), "nested": [{}]}

    def forward(self, x):
        return self.finish(self.last(self.first(x).relu()))

    def finish(self, y):
        return y if self.training else y / (1 + self.mean())

    def mean(self):
        return self.state["mean"]


class Recurrent(Keeps):
    def empty(self):
        return [None]

    def forward(self, x):
        y = self.first(x)
        if self.state[0] is not None:
            y = y + self.again(self.state[0])
        self.state[0] = y.tanh().detach()
        return self.last(y.tanh())


class Rebound(Keeps):
    def finish(self, y):
        if self.training:
            self.state["mean"] = 0.9 * self.state["mean"] + y.detach().abs().mean()
            self.state["nested"][0]["seen"] = y.detach()
        return super().finish(y)


class InPlace(Keeps):
    def finish(self, y):
        if self.training:
            self.mean().mul_(0.9).add_(y.detach().abs().mean())
        return super().finish(y)


class InList(InPlace):
    def empty(self):
        return [(torch.zeros((), dtype=torch.float64),)]

    def mean(self):
        return self.state[0][0]


class Plain(InPlace):
    def empty(self):
        return torch.zeros((), dtype=torch.float64)

    def mean(self):
        return self.state


class Features(Keeps):
    def empty(self):
        return []

    def forward(self, x):
        y = self.first(x).relu()
        self.state.append(y.detach())
        return self.last(y)


@pytest.mark.parametrize("cls", [Recurrent, Rebound, InPlace, InList, Plain, Features])
def test_state_is_put_back_after_a_look_and_a_removal(cls):
    model, other = cls(), cls()
    with torch.no_grad():
        for each in (model, other):
            each.train()
            each(IMAGE)
            each.eval()
    held = model.state
    graph = prunable_graph(model, [IMAGE, Unused("again")] if cls is Features else IMAGE)
    removed = ()
    with contextlib.suppress(UserError):
        removed = remove_units(model, graph, {"first.weight[0]": [1, 3]}, IMAGE).removed
    assert model.state is held
    torch.testing.assert_close(model.state, other.state, rtol=0, atol=0)
    assert (cls is Features) == bool(removed)
    if not removed:
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGE), other(IMAGE), rtol=0, atol=0)


class First(Two):
    """Keeps a scale of its width at its first call."""

    def between(self, y):
        if not hasattr(self, "scale"):
            self.scale = y.shape[1] ** -0.5
        return y * self.scale


class FirstBuffer(Two):
    def between(self, y):
        if "scale" not in self._buffers:
            self.register_buffer("scale", y.new_full((), y.shape[1] ** -0.5))
        return y * self.scale


class FirstInADictionary(Two):
    def __init__(self):
        super().__init__()
        self.known = {}

    def between(self, y):
        return y * self.known.setdefault("scale", y.shape[1] ** -0.5)


class FirstHalf(Two):
    def between(self, y):
        if not hasattr(self, "scale"):
            self.scale = 0.5
        return y * self.scale


@pytest.mark.parametrize("cls", [First, FirstBuffer, FirstInADictionary, FirstHalf])
def test_what_is_kept_at_the_first_call_is_made_by_each_network(cls):
    removed, _ = thinned_and_trained(cls())
    assert bool(removed) == (cls is FirstHalf)

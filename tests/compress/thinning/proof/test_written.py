"""Weights that a network's own code writes while it runs: a proof puts them back, and compares what was written."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.errors import UserError
from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph

WORDS = torch.tensor([[0, 1, 2], [2, 3, 1]])
OTHERS = torch.tensor([[7, 8, 9]])


class Renormed(nn.Module):
    """Its table is read with a largest norm, which torch writes into the rows that are read; it is the head, too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8, max_norm=1.0)
        self.inner = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, words):
        return F.linear(self.inner(self.table(words)), self.table.weight)


class Slow(nn.Module):
    """A copy of the encoder that follows it slowly, in training mode."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
        self.slow, self.last, self.rate = copy.deepcopy(self.encoder), nn.Linear(6, 2), rate

    @torch.no_grad()
    def follow(self):
        for slow, fast in zip(self.slow.parameters(), self.encoder.parameters(), strict=True):
            slow.mul_(1 - self.rate).add_(fast, alpha=self.rate)

    def forward(self, x):
        if self.training:
            self.follow()
        return self.last(self.encoder(x)), self.slow(x).detach()


class ByData(nn.Module):
    """Its first weight shrinks with every pass in training mode."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        if self.training:
            self.first.weight.data.mul_(0.5)
        return self.last(torch.relu(self.first(x)))


class ByWidth(ByData):
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.last.bias.add_(1 / self.first.weight.shape[0])
        return self.last(torch.relu(self.first(x)))


CASES = [(Renormed, WORDS), (Slow, torch.randn(4, 5)), (ByData, torch.randn(4, 5)), (ByWidth, torch.randn(4, 5))]


@pytest.mark.parametrize(("kind", "given"), CASES)
def test_weights_that_forward_writes_are_as_before(kind, given):
    torch.manual_seed(0)
    model = kind().double()
    given = given.double() if given.is_floating_point() else given
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = prunable_graph(model, given)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    groups = graph.groups(prunable_only=True)
    removed = {group.name: [1, 2] for group in groups}
    twin = copy.deepcopy(model)
    masks = masks_of(graph, removed, dict(twin.named_parameters()))
    put_on(twin, masks)
    try:
        result = remove_units(model, graph, removed, given)
    except UserError:
        assert kind is ByWidth
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        return
    assert result.removed
    assert kind is not ByWidth
    put_on(twin, masks)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, result.recipe.slice(name, twin.state_dict()[name]), rtol=0, atol=0)
    for others in (given, OTHERS if kind is Renormed else given + 1):
        for net in (twin, model):
            net.train()
        for one, other in zip(_all(model(others)), _all(twin(others)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        put_on(twin, masks)


def _all(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)

"""Layers whose share of dropout the code sets while it runs: it may follow the width, and no value shows that."""

import contextlib

import pytest
from torch import nn

from compress.errors import UserError
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import IMAGE, Two


class Dropping(Two):
    """A dropout layer between the convolutions; the share after a pass in training mode is what is compared."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout2d()

    def share(self, y):
        return 0.25

    def between(self, y):
        self.drop.p = self.share(y)
        return self.drop(y)


class ByShape(Dropping):
    def share(self, y):
        return y.shape[1] / 20


class ByLayer(Dropping):
    def share(self, y):
        return self.first.out_channels / 20


def follow(layer, y):
    layer.p = y.shape[1] / 20


class InHelper(Dropping):
    def between(self, y):
        follow(self.drop, y)
        return self.drop(y)


class Follows(nn.Dropout):
    def forward(self, y):
        self.p = y.shape[1] / 20
        return super().forward(y)


class Derived(Two):
    def __init__(self):
        super().__init__()
        self.drop = Follows()

    def between(self, y):
        return self.drop(y)


@pytest.mark.parametrize(
    ("kind", "stays"), [(ByShape, True), (ByLayer, True), (InHelper, True), (Derived, True), (Dropping, False)]
)
def test_a_share_that_follows_the_width_keeps_channels(kind, stays):
    model, whole = kind(), kind().train()
    whole(IMAGE)
    graph = prunable_graph(model, IMAGE)
    groups = [group.name for group in graph.groups(prunable_only=True)]
    with contextlib.suppress(UserError):
        remove_units(model, graph, {name: [1, 4] for name in groups}, IMAGE)
    assert (len(model.first.weight) == 8) == stays
    model.train()(IMAGE)
    assert model.drop.p == whole.drop.p

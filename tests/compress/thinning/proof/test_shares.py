"""Layers whose share of dropout the code sets while it runs: it may follow the width, and no value shows that."""

import contextlib
import functools

import pytest
from torch import nn
from torch.nn import functional

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


class Rated(nn.Module):
    """A layer of one's own, whose share has another name."""

    def __init__(self):
        super().__init__()
        self.p = 0.1

    @property
    def rate(self):
        return self.p

    @rate.setter
    def rate(self, value):
        self.p = value

    def forward(self, y):
        return functional.dropout2d(y, self.rate, self.training)


class Keeping(Rated):
    def forward(self, y):
        return y * y.new_empty(len(y), 1, 1, 1).bernoulli_(1 - self.rate) if self.training else y


class OfOwn(Dropping):
    layer = Rated

    def __init__(self):
        super().__init__()
        self.drop = self.layer()

    def between(self, y):
        self.drop.rate = y.shape[1] / 20
        return self.drop(y)


class OfOwnDraw(OfOwn):
    layer = Keeping


class Alpha(ByShape):
    def __init__(self):
        super().__init__()
        self.drop = nn.AlphaDropout()


class OfTokens(Dropping):
    """A recurrent layer or an attention of another width."""

    layer = functools.partial(nn.MultiheadAttention, 4, 2, batch_first=True)

    def __init__(self):
        super().__init__()
        self.project, self.drop = nn.Linear(8, 4), self.layer(dropout=0.1).double()
        self.double()

    def between(self, y):
        self.drop.dropout = self.drop.p = y.shape[1] / 20
        tokens = self.project(y.flatten(2).transpose(1, 2))
        given = (tokens,) * (3 if isinstance(self.drop, nn.MultiheadAttention) else 1)
        return y + self.drop(*given)[0].sum((1, 2))[:, None, None, None]


class Recurrent(OfTokens):
    layer = functools.partial(nn.LSTM, 4, 5, 2, batch_first=True)


SOURCE = """
class WithoutSource(Two):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout()
    def between(self, y):
        self.drop.__dict__["p"] = y.shape[1] / 20
        return functional.dropout2d(y, y.shape[1] / 20, self.training)
"""
exec(SOURCE)
SETTERS = [OfOwn, OfOwnDraw, Alpha, OfTokens, Recurrent, locals()["WithoutSource"]]


@pytest.mark.parametrize(
    ("kind", "stays"),
    [
        *((each, True) for each in SETTERS),
        (ByShape, True),
        (ByLayer, True),
        (InHelper, True),
        (Derived, True),
        (Dropping, False),
    ],
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

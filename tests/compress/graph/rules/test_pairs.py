"""Distances, similarities, diagonals, masked assignments: exact where a channel is zero, else pinned with a reason."""

import re

import pytest
import torch
from torch.nn import functional

from compress.graph.channels import channel_graph
from tests.compress.thinning.twins import Between, numbers, prepared, thinned_alike


def last(y):
    return y.movedim(1, -1)


def pairs_of(y):
    rows = y.flatten(2).mT
    return torch.cdist(rows, rows.flip(1))


def assigned(y, mask, value):
    y = y.clone()
    y[mask(y)] = value
    return y


def scaled(y):
    y = y.clone()
    y[y < 0] *= 0.1
    return y


def over(y, number):
    return y * number[:, None, None, None]


EXACT = {
    "identity": lambda self, y: (last(y) @ torch.eye(self.width, dtype=y.dtype)).movedim(-1, 1),
    "identity of a size": lambda self, y: functional.linear(last(y), torch.eye(y.shape[1], dtype=y.dtype)).movedim(
        -1, 1
    ),
    "scales as a diagonal": lambda self, y: functional.linear(last(y), self.first.bias.diag()).movedim(-1, 1),
    "cdist": lambda self, y: over(y, pairs_of(y).mean((1, 2))),
    "cosine": lambda self, y: y * functional.cosine_similarity(y, y.mean((2, 3), keepdim=True), dim=1)[:, None],
    "vecdot": lambda self, y: y * torch.linalg.vecdot(y, y.flip(-1), dim=1)[:, None],
    "dist": lambda self, y: y * torch.dist(y, y.flip(-1)),
    "nuclear norm": lambda self, y: over(y, 1 / torch.linalg.matrix_norm(y.flatten(2), "nuc")),
    "assigned, summed": lambda self, y: y * assigned(y, lambda z: z < 0, 0.5).sum(1, keepdim=True),
    "assigned by a mean": lambda self, y: assigned(y, lambda z: z < z.mean((2, 3), keepdim=True), 0.0),
    "assigned to channels": lambda self, y: assigned(y, lambda z: z.sum((2, 3)) < 0, 0.3),
}
PINNED = {
    "a diagonal of ones": (
        lambda self, y: over(y, (torch.einsum("nchw,ndhw->ncd", y, y) - torch.eye(8, dtype=y.dtype)).sum((1, 2))),
        "coupled to a tensor of fixed size",
    ),
    "not zero": (lambda self, y: over(y, pairs_of(y.sigmoid()).mean((1, 2))), "not zero where masked .cdist"),
    "not zero in either": (
        lambda self, y: y * functional.cosine_similarity(y.sigmoid(), y.exp(), dim=1)[:, None],
        "not zero where masked .cosine_similarity",
    ),
    "1e-6 for each channel": (
        lambda self, y: y * functional.pairwise_distance(last(y), last(y.flip(-1)))[:, None],
        "each channel adds its share of the 1e-6",
    ),
    "not zero once assigned": (
        lambda self, y: y * assigned(y, lambda z: z <= 0, 0.5).sum(1, keepdim=True),
        "reduced over the channels",
    ),
    "as many as there are": (lambda self, y: scaled(y), "a size depends on values"),
    "smallest singular value": (
        lambda self, y: over(y, torch.linalg.matrix_norm(y.flatten(2), -2)),
        "reduced over the channels",
    ),
}


SLOW = ("identity of a size", "vecdot", "dist", "nuclear norm", "assigned to channels")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXACT])
def test_zero_channels_change_nothing(name):
    removed, _ = thinned_alike(Between(EXACT[name], width=8), numbers(2, 3, 5, 6))
    assert "first.weight[0]" in removed


@pytest.mark.parametrize("name", PINNED)
def test_what_would_change_is_pinned(name):
    function, reason = PINNED[name]
    graph = channel_graph(prepared(Between(function)), numbers(2, 3, 5, 6))
    assert re.search(reason, "; ".join(graph.why_pinned("first.weight")))

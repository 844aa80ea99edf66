"""Distances, similarities, diagonals, masked assignments: exact where a channel is zero, else pinned with a reason."""

import copy
import re

import pytest
import torch
from torch.nn import functional

from compress.graph.channels import channel_graph
from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
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
    "a sum of squares": lambda self, y: y * functional.mse_loss(y, y.flip(-1), reduction="sum") / 1000,
    "squares": lambda self, y: functional.mse_loss(y, y.flip(-1), reduction="none"),
    "Huber's loss": lambda self, y: y * functional.huber_loss(y, y.flip(-1), reduction="none").sum(1, keepdim=True),
    "lengths of samples": lambda self, y: torch.renorm(y, 2, 0, 1.0),
    "lengths of channels": lambda self, y: torch.renorm(y, 2, 1, 1.0),
    "dist": lambda self, y: y * torch.dist(y, y.flip(-1)),
    "nuclear norm": lambda self, y: over(y, 1 / torch.linalg.matrix_norm(y.flatten(2), "nuc")),
    "assigned, summed": lambda self, y: y * assigned(y, lambda z: z < 0, 0.5).sum(1, keepdim=True),
    "assigned by a mean": lambda self, y: assigned(y, lambda z: z < z.mean((2, 3), keepdim=True), 0.0),
    "assigned to channels": lambda self, y: assigned(y, lambda z: z.sum((2, 3)) < 0, 0.3),
}


def nearest(self, y):
    rows = y.flatten(2).mT
    return (torch.softmax(-torch.cdist(rows, rows), -1) @ rows).mT.reshape(y.shape)


PINNED = {
    "a mean of squares": (lambda self, y: y * functional.mse_loss(y, y.flip(-1)), "averaged over"),
    "lengths of rows": (lambda self, y: torch.renorm(y.sigmoid(), 2, 0, 1.0), "not zero where masked .renorm"),
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


def test_distances_of_points_from_themselves_are_not_judged_by_their_rounding():
    model = prepared(Between(nearest))
    image = numbers(2, 3, 5, 6)  # 30 points: from 26 on torch computes distances by a product of matrices
    twin, graph = copy.deepcopy(model), prunable_graph(model, image)
    masks = masks_of(graph, {"first.weight[0]": [1, 4]}, dict(twin.named_parameters()))
    put_on(twin, masks)
    remove_units(model, graph, {"first.weight[0]": [1, 4]}, image)
    torch.testing.assert_close(model(image), twin(image), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PINNED)
def test_what_would_change_is_pinned(name):
    function, reason = PINNED[name]
    graph = channel_graph(prepared(Between(function)), numbers(2, 3, 5, 6))
    assert re.search(reason, "; ".join(graph.why_pinned("first.weight")))


def crossed(y):
    return torch.fft.ifft2(torch.fft.fft2(y) * torch.fft.fft2(y.relu()).conj()).real


MATRICES = {
    "conj": crossed,
    "mH": lambda y: y + y.flatten(2).mH.flip(1).mT.reshape(y.shape),
    "adjoint": lambda y: y + y.flatten(2).adjoint().tanh().mT.reshape(y.shape),
    "diagonal": lambda y: y + torch.diagonal(y, 0, 2, 3)[..., None],
}


@pytest.mark.parametrize("name", MATRICES)
def test_conjugates_and_diagonals_of_space_keep_channels_apart(name):
    removed, _ = thinned_alike(Between(lambda module, y: MATRICES[name](y)), numbers(2, 3, 4, 4), numbers(3, 3, 6, 6))
    assert "first.weight[0]" in removed


def test_a_diagonal_along_channels_stays():
    net = Between(lambda module, y: y + torch.diagonal(y.flatten(2)[:, :, :8], 0, 1, 2).sum()).double()
    (group,) = channel_graph(net, numbers(2, 3, 4, 4)).groups_of("first.weight")
    assert any("diagonal runs along" in each for each in group.pinned)


class Spectral(torch.nn.Module):
    """Its code says `training`, so that the weight's norm is traced in training mode, too."""

    def __init__(self):
        super().__init__()
        convolution = torch.nn.Conv2d(8, 8, 1)
        self.first, self.last = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 2, 1)
        self.middle = torch.nn.utils.parametrizations.spectral_norm(convolution)

    def forward(self, x):
        y = self.last(self.middle(self.first(x)).relu())
        return (y, y.mean()) if self.training else y


def test_a_spectral_norm_that_is_traced_in_training_mode_follows():
    removed, _ = thinned_alike(Spectral(), numbers(2, 3, 4, 4))
    assert "first.weight[0]" in removed

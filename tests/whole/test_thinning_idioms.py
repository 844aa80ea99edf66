"""Structures that people write by hand: thinned exactly, or where asked for with a measured difference."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.thinning.complete import masks_of
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.idioms import Attending, BlurPool, ChannelNorm, ConvGru, ConvLstm
from tests.compress.thinning.twins import numbers, prepared, thinned_alike


def test_recurrent_convolutions_lose_hidden_channels():
    model = ConvLstm()
    removed, graph = thinned_alike(model, numbers(2, 3, 3, 5, 5), numbers(3, 2, 3, 4, 6))
    assert {"first.weight[0]", "cells.0.hidden_dim[0]"} & set(removed) or len(removed) == 3, graph.describe()
    for cell in model.cells:
        assert cell.conv.out_channels == 4 * cell.hidden_dim
    assert [cell.hidden_dim for cell in model.cells] == [5, 3]


def test_gated_recurrent_convolutions_too():
    model = ConvGru()
    removed, graph = thinned_alike(model, numbers(2, 3, 3, 5, 5), numbers(3, 2, 3, 4, 6))
    assert len(removed) == 2, graph.describe()
    assert model.cell.hidden == model.cell.candidate.out_channels == 5


@pytest.mark.parametrize("form", ["buffer", "expand", "repeat"])
def test_a_fixed_filter_on_each_channel_follows(form):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), BlurPool(8, form), nn.Conv2d(8, 4, 1))
    removed, graph = thinned_alike(model, numbers(2, 3, 6, 6), numbers(3, 3, 8, 4))
    assert removed, graph.describe()
    assert model[0].out_channels == 5


@pytest.mark.parametrize("form", ["enable_gqa", "interleave", "expand"])
def test_shared_keys_go_with_all_their_queries(form):
    model = Attending(form)
    removed, graph = thinned_alike(model, numbers(2, 7, 5), numbers(3, 4, 5), share=2)
    attention = model.attention
    assert any("wk.weight" in name or "wq.weight" in name for name in removed), graph.describe()
    assert (attention.n_heads, attention.n_kv) == (2, 1)
    assert attention.wk.out_features * 2 == attention.wq.out_features


class LastDimension(nn.Module):
    """A norm over the last dimension, brought there and back."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class FunctionalGroups(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.parts = groups

    def forward(self, x):
        return functional.group_norm(x, self.parts)


def test_groups_of_a_norm_that_the_code_counts_follow():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), FunctionalGroups(4), nn.Conv2d(8, 4, 1))
    removed, graph = thinned_alike(model, numbers(2, 3, 6, 6), numbers(3, 3, 8, 4))
    assert removed, graph.describe()
    assert (model[0].out_channels, model[1].parts) == (6, 3)


NORMS = ["by hand", "function", "layer_norm", "var_mean", "sum", "var"]


def normed(form):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), ChannelNorm(8, form), nn.GELU(), nn.Conv2d(8, 4, 1)), numbers(
        2, 3, 6, 6
    )


@pytest.mark.parametrize("form", NORMS)
def test_a_layer_that_is_a_norm_over_channels_keeps_the_width_before(form):
    model, image = normed(form)
    removed, graph = thinned_alike(model, image, numbers(3, 3, 8, 4))
    assert removed, graph.describe()
    assert model[0].out_channels == 5
    assert all(len(parameter) == 5 for parameter in model[1].parameters())


class NormInside(nn.Module):
    """A norm over the channels in the midst of the network's own code, which is no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last((x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt())


def test_norms_outside_of_layers_stay_and_say_how_they_could_go():
    reasons = prunable_graph(prepared(NormInside()), numbers(2, 3, 6, 6)).why_pinned("first.weight")
    assert any("`allow_inexact: true` of FilterRemover" in why and "in the model" in why for why in reasons), reasons


def test_norms_outside_of_layers_go_where_inexactness_is_allowed():
    model, image = prepared(NormInside()), numbers(2, 3, 6, 6)
    graph = prunable_graph(model, image, allow_inexact=True)
    (group,) = [group for group in graph.groups(prunable_only=True) if ("first.weight", 0) in group.members]
    with torch.no_grad():
        before = model.eval()(image)
    result = remove_units(model, graph, {group.name: [1, 4]}, image, allow_inexact=True)
    assert model.first.out_channels == 6
    assert not result.exact
    assert 1e-6 < result.difference < 10
    assert model(image).shape == before.shape


class OtherInTraining(NormInside):
    def forward(self, x):
        y = self.first(x)
        mean = y.mean(1, keepdim=True)
        return self.last(y - 3 * mean if self.training else y * torch.sigmoid(mean))


def test_an_inexact_removal_reports_what_it_does_to_the_network_as_it_is():
    model, image = prepared(OtherInTraining()), numbers(2, 3, 6, 6)
    graph = prunable_graph(model, image, allow_inexact=True)
    twin, removed = copy.deepcopy(model), {"first.weight[0]": [0, 1, 5]}
    put_on(twin, masks_of(graph, removed, dict(twin.named_parameters())))
    result = remove_units(model, graph, removed, image, allow_inexact=True)
    by = {}
    with torch.no_grad():
        for mode, training in (("eval", False), ("train", True)):
            old, new = twin.train(training)(image), model.train(training)(image)
            by[mode] = ((old - new).abs().max() / old.abs().max()).item()
    assert result.mode == max(by, key=by.get) == "train"
    assert result.difference == pytest.approx(by["train"], rel=1e-9)
    assert not result.exact

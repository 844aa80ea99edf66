"""Networks whose path draws, or the layout of an image, decide: each way is compared, and draws are named."""

import random
from random import choice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph.recording import variation
from compress.graph.recording.variation import Variation, under, variations
from compress.thinning.proof.observe import observe
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph

IMAGE = torch.rand(2, 3, 6, 6)


class Between(nn.Module):
    """Eight channels, and what stands between two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.b(self.between(torch.relu(self.a(x)), x))

    def between(self, y, x):
        return y


class Augments(Between):
    def between(self, y, x):
        return y - y.mean(1, keepdim=True) if self.training and random.random() < 0.15 else y


def by_choice(self, y, x):
    acts = [functional.relu, functional.relu, functional.relu, lambda t: functional.softmax(t, 1)]
    return choice(acts)(y) if self.training else y


class Chooses(Between):
    between = by_choice  # it does not stand in the class's source


class ByNumpy(Between):
    def between(self, y, x):
        return y.softmax(1) if np.random.rand() > 0.95 else y


class Stochastic(nn.Module):
    def forward(self, x):
        return x * random.uniform(0.9, 1.1)


class Harmless(Between):
    def __init__(self):
        super().__init__()
        self.part = Stochastic()

    def between(self, y, x):
        return self.part(y)


class LastLayout(Between):
    def between(self, y, x):
        return y.softmax(1) if x.is_contiguous(memory_format=torch.channels_last) else y


class ByStride(Between):
    def between(self, y, x):
        return y * y.shape[1] if x.stride(1) == 1 else y


class SameInBoth(Between):
    def between(self, y, x):
        return y if x.is_contiguous() else y.contiguous()


def slowly(kind):
    return pytest.param(kind, marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", [Augments, slowly(Chooses), slowly(ByNumpy), LastLayout, ByStride])
def test_a_path_taken_by_chance_or_by_layout_is_seen(kind):
    torch.manual_seed(0)
    graph = prunable_graph(kind().eval(), IMAGE)
    assert not [each for each in graph.groups(prunable_only=True) if ("a.weight", 0) in each.members]
    drawn = [note for note in graph.notes if "draws from Python's or NumPy's random generator, in its own" in note]
    assert len(drawn) == (kind in (Augments, Chooses, ByNumpy))


@pytest.mark.parametrize("kind", [slowly(Harmless), SameInBoth, Between])
def test_what_is_alike_on_each_way_loses_units(kind):
    torch.manual_seed(0)
    model, before = kind().eval(), (random.getstate(), np.random.get_state()[2])
    graph = prunable_graph(model, IMAGE)
    result = remove_units(model, graph, {"a.weight[0]": [1, 4]}, IMAGE)
    assert model.a.out_channels == 6
    assert before == (random.getstate(), np.random.get_state()[2])  # the caller's generators stay where they were
    named = [note for note in result.notes if "Python's or NumPy's random generator, in module 'part'" in note]
    assert len(named) == (kind is Harmless)
    assert len(variations(model)) == {Harmless: 7, SameInBoth: 1, Between: 0}[kind]


def test_the_seeds_begin_where_they_should():
    for seed, first in zip(variation.SEEDS, variation.FIRST, strict=True):
        assert random.Random(seed).random() == pytest.approx(first, abs=0.02)
        assert np.random.RandomState(seed).random_sample() == pytest.approx(first, abs=0.02)


class Layout(nn.Module):
    def forward(self, x):
        return torch.tensor(x.is_contiguous())


@pytest.mark.parametrize("given", [IMAGE, IMAGE.contiguous(memory_format=torch.channels_last)])
def test_the_other_layout_is_the_one_that_was_not_given(given):
    (usual,) = observe(Layout(), given, "eval").outputs
    with under(Variation(other_layout=True)):
        (other,) = observe(Layout(), given, "eval").outputs
    assert bool(usual) is given.is_contiguous() is not bool(other)
    assert "is_contiguous" not in vars(torch.Tensor)

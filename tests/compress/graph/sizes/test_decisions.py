"""Paths that the code chooses by the size of the input: said once, with the place, unless the examples show both."""

import pytest
import torch

from compress.analysis.listings.channel_groups import group_tables
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import Two
from tests.compress.thinning.twins import numbers

SMALL, LARGE = numbers(1, 3, 4, 4), numbers(1, 3, 4, 9)


class Chooses(Two):
    def between(self, y):
        return y.tanh() if y.shape[-1] > 8 else y


class OfTheInput(Two):
    def forward(self, x):
        _, _, _, width = x.shape
        y = super().forward(x)
        for _ in range(2):
            if width >= 2 * 4:
                y = y + 1
        return y


class Asserts(Two):
    def between(self, y):
        assert y.shape[-1] < 100
        torch._assert(y.shape[2] == 4, "height")
        return y


class Raises(Two):
    def between(self, y):
        if y.shape[-1] != 4:
            raise ValueError("another width")
        return y


class ByChannels(Two):
    def between(self, y):
        return y.tanh() if y.shape[1] > 2 else y


class TwoSizes(Two):
    def between(self, y):
        return y.tanh() if y.shape[-1] == y.shape[-2] else y


@pytest.mark.parametrize(("kind", "line"), [
    (Chooses, "return y.tanh() if y.shape[-1] > 8 else y"), (OfTheInput, "if width >= 2 * 4:"),
])  # fmt: skip
def test_a_choice_by_the_size_of_the_input_is_reported_once(kind, line):
    model = kind()
    graph = prunable_graph(model, SMALL)
    (note,) = graph.notes
    assert note.count(line) == note.count("test_decisions.py:") == 1
    assert note in graph.describe()
    assert note in group_tables(graph)
    assert remove_units(model, graph, {"first.weight[0]": [1]}, SMALL).notes == graph.notes
    assert model.first.out_channels == 7


def test_examples_of_both_sides_leave_nothing_to_say():
    assert not prunable_graph(Chooses(), [SMALL, LARGE]).notes


@pytest.mark.parametrize("kind", [Two, Asserts, Raises, ByChannels, TwoSizes])
def test_checks_and_numbers_of_channels_are_no_choice_by_the_input(kind):
    assert not prunable_graph(kind(), SMALL).notes

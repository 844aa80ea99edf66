"""Paths that the code chooses by the size of the input: said once, with the place, unless the examples show both."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from compress.analysis.listings.channel_groups import group_tables
from compress.graph.channels import channel_graph
from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.proof.nets import Two
from tests.compress.thinning.twins import numbers

SMALL, LARGE, TWO = numbers(1, 3, 4, 4), numbers(1, 3, 4, 9), numbers(2, 3, 4, 4)


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


class ByASingleOne(Two):
    def between(self, y):
        return y.tanh() if y.shape[0] > 1 else y


def test_a_choice_by_the_number_of_samples_is_reported_for_a_single_one():
    (note,) = prunable_graph(ByASingleOne(), SMALL).notes
    assert note.count("test_decisions.py:") == 1
    assert not prunable_graph(ByASingleOne(), [SMALL, TWO]).notes


class ByAParameter(Two):
    def between(self, y):
        return y.tanh() if self.first.weight.shape[2] == 3 and self.last.weight.shape[-1] == 1 else y


@pytest.mark.parametrize("kind", [Two, Asserts, Raises, ByChannels, TwoSizes, ByAParameter])
def test_checks_and_numbers_of_channels_are_no_choice_by_the_input(kind):
    assert not prunable_graph(kind(), SMALL).notes


CHOICES = {
    "a remainder": lambda h, w: h % 3,
    "an even number": lambda h, w: h % 2 == 0,
    "a negative remainder": lambda h, w: -h % 8 > 0,
    "what is to be padded": lambda h, w: (8 - h % 8) % 8,
    "a product": lambda h, w: h * w > 4096,
    "a rounded part": lambda h, w: h // 3 == 1,
    "an exact part": lambda h, w: h // 2 == 2,
    "a part of both": lambda h, w: (h // 3) * (w // 3) == 1,
    "divmod": lambda h, w: divmod(w, 8)[1],
    "the smaller one": lambda h, w: min(h, 7) == 7,
    "the smaller side": lambda h, w: min(h, w) > 64,
    "the larger one of a rounded part": lambda h, w: max(1, h // 8) > 1,
    "a sum": lambda h, w: h + w > 64,
    "a difference": lambda h, w: h - 8 > 0,
    "a fraction": lambda h, w: h / 2 > 7,
    "a factor": lambda h, w: h * 0.5 > 7,
    "a rounded fraction": lambda h, w: math.ceil(h / 8) == 1,
    "a power": lambda h, w: h**2 > 99,
    "bits": lambda h, w: h & 1,
    "not": lambda h, w: not h % 3,
    "one of several": lambda h, w: h in (32, 64),
}


class By(Two):
    def __init__(self, choice):
        super().__init__()
        self.choice = choice

    def between(self, y):
        return y.tanh() if self.choice(y.shape[-2], y.shape[-1]) else y


@pytest.mark.parametrize("name", CHOICES)
def test_choices_by_what_is_computed_from_sizes_are_reported(name):
    (note,) = prunable_graph(By(CHOICES[name]), SMALL).notes
    assert note.count("test_decisions.py:") == 1


def longer(y):
    return len(y) >= 8


def rows(y):
    return int(y.shape[0])


def by_name(y):
    count = int(y.shape[0]) // 2
    return count > 4


def by_parts(y):
    parts = y.split(4)
    return len(parts) > 1


def by_a_text(y):
    name = f"table{y.shape[0]}"
    return name == "table8"


PLAIN = {
    "len": lambda y: len(y) >= 8,
    "len in a helper": longer,
    "a helper's number": lambda y: rows(y) > 7,
    "int": lambda y: int(y.shape[0]) >= 8,
    "float": lambda y: float(y.shape[-1]) * 2 >= 16,
    "int of a fraction": lambda y: int(y.shape[0] * 0.5) > 3,
    "a square root": lambda y: math.sqrt(y.shape[0]) > 2.5,
    "numpy": lambda y: np.sqrt(y.shape[0]) > 2.5,
    "a set": lambda y: y.shape[0] in {8, 16},
    "a dictionary": lambda y: {8: 1}.get(y.shape[0], 0),
    "a dictionary's item": lambda y: {2: 0, 4: 0, 8: 1}[y.shape[0]],
    "a text": lambda y: str(y.shape[0]) == "8",
    "a formatted text": by_a_text,
    "unbind": lambda y: len(y.unbind()) >= 8,
    "split": lambda y: len(y.split(4)) > 1,
    "chunk": lambda y: len(torch.chunk(y, 8, dim=0)) > 7,
    "parts with a name": by_parts,
    "a name": by_name,
    "elements": lambda y: y.numel() > 999,
    "bytes": lambda y: y.nbytes > 9999,
    "detached": lambda y: y.detach().shape[0] >= 8,
    "all sizes": lambda y: y.shape == (8, 6, 4, 4),
}


class ByTensor(By):
    def between(self, y):
        return y.tanh() if self.choice(y) else y


@pytest.mark.parametrize("name", PLAIN)
def test_choices_by_what_has_become_a_plain_number_or_a_text_are_reported(name):
    (note,) = prunable_graph(ByTensor(PLAIN[name]), TWO).notes
    assert note.count("test_decisions.py:") == 1
    assert not prunable_graph(ByTensor(PLAIN[name]), [TWO, numbers(8, 3, 4, 8)]).notes


def refuses(y):
    count = len(y)
    if count > 99:
        raise ValueError("too many")
    assert int(y.shape[0]) < 99, f"{y.shape[0]} images"
    return False


def says(y):
    SAID.append(f"{y.shape[0]} x {int(y.shape[1])}")
    return len(y.shape) > 4


SAID = []


@functools.lru_cache
def kept(rows, columns):
    return rows is columns


CHECKED = {
    "two lengths": lambda y: len(y) != len(y.relu()),
    "a check": refuses,
    "for people": says,
    "a cached function": lambda y: kept(y.shape[0], y.shape[1]),
    "parts": lambda y: y.split(4)[0].dim() > 4,
    "dimensions": lambda y: y.ndim > 4 or y.dim() > 4,
    "a size as it is": lambda y: y.view(int(y.shape[0]), -1) is None,
    "positions": lambda y: not [row for row in y for _ in range(y.shape[2])],
}


@pytest.mark.parametrize("name", CHECKED)
def test_plain_numbers_by_which_nothing_is_chosen_are_not_reported(name):
    assert not prunable_graph(ByTensor(CHECKED[name]), TWO).notes


@pytest.mark.parametrize("choice", [lambda h, w: h * w == w * h, lambda h, w: h % 8 == w % 8, lambda h, w: 2**5 > 4])
def test_two_sizes_and_numbers_of_the_code_are_no_choice(choice):
    assert not prunable_graph(By(choice), SMALL).notes


def test_what_is_computed_from_sizes_goes_into_operations_as_plain_numbers():
    class Fractions(Two):
        def between(self, y):
            h, w = y.shape[-2:]
            y = nn.functional.pad(y, (0, -w % 8, 0, (8 - h % 8) % 8)) * (h / w) * h**-0.5
            return nn.functional.interpolate(y.repeat(1, 1, h // 3, 1), size=(max(h, 5), w * h)) + torch.arange(h * w)

    graph = channel_graph(Fractions(), SMALL)
    assert [group.name for group in graph.groups(prunable_only=True)] == ["first.weight[0]"]


WIDE = numbers(2, 3, 4, 64)
CUTS = {
    "a width": (lambda y: y.view(y.shape[0], -1, 64), True),
    "over lines": (lambda y: y.reshape(
        (y.shape[0], -1, 64)
    ), True),
    "a part of the positions": (lambda y: y.reshape(y.size(0), -1, 128), True),
    "parts of the positions": (lambda y: y.reshape(y.size(0), -1, 4, 16), True),
    "the tensor's own": (lambda y: y.view(y.shape[0], -1, y.shape[-1]), False),
    "half of its own": (lambda y: y.view(y.shape[0], -1, y.shape[2] // 2, 2, y.shape[3]), False),
    "all but the channels": (lambda y: y.view(y.shape[0], y.shape[1], -1, 64), False),
    "what is left are positions": (lambda y: y.permute(0, 2, 3, 1).reshape(y.size(0), -1, 8), False),
    "no rest": (lambda y: y.reshape(y.size(0), 8, 256), False),
}  # fmt: skip


class Views(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.first, self.second, self.cut = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), view

    def forward(self, x):
        return self.cut(self.second(self.first(x).relu())).sum(-1)


@pytest.mark.parametrize("name", CUTS)
def test_a_literal_in_the_place_of_a_size_of_the_input_is_reported(name):
    view, reported = CUTS[name]
    notes = channel_graph(Views(view).double(), WIDE).notes
    assert len(notes) == reported
    assert all("beside a -1 for the channels: test_decisions.py:" in note for note in notes)

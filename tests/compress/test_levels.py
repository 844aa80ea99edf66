"""Levels: exact ends, between them in order, faults."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.epoch_window import EpochWindow
from compress.errors import ScheduleError
from compress.levels import AgpLevel, ConstantLevel, ExponentialLevel, LinearLevel, StepsLevel, as_level
from compress.registry import LEVELS
from tests.compress.harness import Run, one_policy

few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(
    st.sampled_from([AgpLevel, LinearLevel, ExponentialLevel]),
    st.floats(0, 0.98),
    st.floats(0.001, 1),
    st.integers(0, 9),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_rising_levels_meet_both_ends_and_never_fall(cls, initial, rise, start, length, frequency):
    final = initial + (0.99 - initial) * rise
    window = EpochWindow.of_range(start, start + length, min(frequency, length))
    level = cls(initial, final)
    values = [level.at(epoch, window) for epoch in window.epochs]
    assert values[-1] == final
    assert len(values) == 1 or values[0] == initial
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert level.at(window.ending_epoch + 3, window) == final


def test_steps_are_absolute_epochs():
    level = StepsLevel({3: 0.2, 6: 0.7})
    window = EpochWindow.of_range(2, 9)
    assert [level.at(epoch, window) for epoch in range(2, 9)] == [0, 0.2, 0.2, 0.2, 0.7, 0.7, 0.7]


def test_as_level_takes_every_form():
    assert as_level(0.5) == ConstantLevel(0.5)
    assert as_level({"class": "ConstantLevel", "sparsity": 0.5}) == ConstantLevel(0.5)
    assert as_level(ConstantLevel(0.5)) == ConstantLevel(0.5)


def test_all_levels_are_here():
    assert set(LEVELS) == {"AgpLevel", "ConstantLevel", "ExponentialLevel", "LinearLevel", "StepsLevel"}


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"class": "AgpLevel", "initial_sparsity": 0.5, "final_sparsity": 0.5}, "AGP only grows"),
        ({"class": "AgpLevel", "initial_sparsity": 0.5}, "AgpLevel needs the argument 'final_sparsity'"),
        ({"class": "LinearLevel", "initial": 0.5, "final_sparsity": 0.5}, "LinearLevel has no argument 'initial'"),
        ({"class": "StepsLevel", "steps": {-1: 0.5}}, "each 0 or later"),
        ({"sparsity": 0.5}, "the class is missing"),
        ("half", "given 'half'"),
    ],
)
def test_faults_of_levels_are_found_before_training(level, message):
    instance = {"class": "GlobalMagnitudePruner", "weights": ["fc.weight"], "desired_sparsity": level}
    with pytest.raises(ScheduleError, match=message):
        Run(one_policy("pruners", instance, [0]))

"""Axes: round ticks, labels that differ."""

import pytest

from apputils.report.ticks import epoch_ticks, number, tick_labels, ticks


@pytest.mark.parametrize(
    ("low", "high", "first", "last"), [(0.13, 0.92, 0, 1), (0, 0, 0, 1), (-3, 12, -5, 15), (5, 5, 2, 8)]
)
def test_ticks_enclose_the_range(low: float, high: float, first: float, last: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert (marks[0], marks[-1]) == (first, last)


def test_numbers_in_few_digits() -> None:
    assert [number(each) for each in (0, 0.04612, 9248, 43468, 2.12e9)] == ["0", "0.04612", "9248", "43.5 k", "2.12 G"]


def test_tick_labels_differ() -> None:
    """Four ticks that all read 33.66 say nothing."""
    assert tick_labels([33.655, 33.66, 33.665]) == ["33.655", "33.660", "33.665"]
    assert tick_labels([0.95705, 0.9571, 0.95715]) == ["0.95705", "0.95710", "0.95715"]
    assert tick_labels([43_400, 43_420, 43_440]) == ["43,400", "43,420", "43,440"]
    assert tick_labels([0, 0.5, 1]) == ["0", "0.5", "1"]


@pytest.mark.parametrize(("last", "marks"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (30, [0, 5, 10, 15, 20, 25, 30])])
def test_there_is_no_half_an_epoch(last: int, marks: list[int]) -> None:
    assert epoch_ticks(0, last) == marks

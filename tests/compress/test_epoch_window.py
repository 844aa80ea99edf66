"""Windows: firing epochs and progress."""

import pytest

from compress.epoch_window import EpochWindow


@pytest.mark.parametrize(("start", "end", "frequency"), [(0, 30, 1), (0, 30, 7), (5, 6, 1), (2, 12, 10)])
def test_range_fires_like_pythons_range(start: int, end: int, frequency: int) -> None:
    window = EpochWindow.of_range(start, end, frequency)
    assert [e for e in range(40) if window.fires(e)] == list(range(start, end, frequency))
    assert window.progress(window.last) == 1.0
    assert window.progress(window.last + 3) == 1.0


def test_progress_counts_firing_epochs_not_the_range() -> None:
    window = EpochWindow.of_range(0, 30, 7)  # fires at 0, 7, 14, 21, 28
    assert (window.first, window.last, window.ending_epoch) == (0, 28, 30)
    assert window.progress(14) == 0.5


def test_list_is_sorted_and_unique() -> None:
    window = EpochWindow.of_list([5, 0, 5])
    assert list(window.epochs) == [0, 5]
    assert window.ending_epoch == 6


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 2), (-1, 2)])
def test_empty_or_reversed_ranges_raise(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="empty range"):
        EpochWindow.of_range(start, end)


def test_a_frequency_longer_than_the_range_fires_once() -> None:
    window = EpochWindow.of_range(2, 6, 5)
    assert [epoch for epoch in range(10) if window.fires(epoch)] == [2]
    assert window.progress(2) == 1.0
    with pytest.raises(ValueError, match="frequency 0 must be at least 1"):
        EpochWindow.of_range(2, 6, 0)


@pytest.mark.parametrize("epochs", [[], [-1, 2]])
def test_a_list_needs_epochs_from_0(epochs: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one epoch"):
        EpochWindow.of_list(epochs)


def test_text_for_people() -> None:
    assert str(EpochWindow.of_range(0, 30, 2)) == "epochs 0..29 every 2"
    assert str(EpochWindow.of_list([3, 1])) == "epochs 1, 3"

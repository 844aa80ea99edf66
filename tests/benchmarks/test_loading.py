"""The benchmark of loading: both ways give batches of one kind; the lines of its row."""

from pathlib import Path

import pytest

from benchmarks.loading import BATCH, CROP, fill, measure, ours, plain
from benchmarks.results import loading_lines


@pytest.mark.slow
def test_both_ways_give_the_same_kind_of_batches(tmp_path: Path) -> None:
    fill(tmp_path / "images", 50)
    shapes = [(BATCH, 3, CROP // 2, CROP // 2), (BATCH, 3, CROP, CROP)]
    for way in (ours, plain):
        batches = list(way(tmp_path / "images", 0, 2 * BATCH))
        assert [[tuple(each.shape) for each in batch] for batch in batches] == [shapes, shapes]
        assert all(0 <= float(each.min()) <= float(each.max()) <= 1 for batch in batches for each in batch)
    assert set(measure("ours", tmp_path / "images", 0, 2 * BATCH)) == {"first", "rate", "memory"}


def test_lines_of_the_row() -> None:
    theirs = [{"first": 0.5, "rate": 100.0, "memory": 500.0}, {"first": 0.7, "rate": 80.0, "memory": 500.0}]
    own = [{"first": 9.0, "rate": 110.0, "memory": 1500.0}, {"first": 11.0, "rate": 76.0, "memory": 1500.0}]
    rate, first, memory = loading_lines({"theirs": theirs, "ours": own})
    assert rate.measured == "1.02 [0.95, 1.10] times; 93 samples/s"
    assert rate.met
    assert first.measured == "10.0 s; theirs 0.6 s"
    assert memory.measured == "1,500 MB; theirs 500 MB"

"""Charts: marks lie where their numbers are."""

import re

import pytest

from apputils.report.svg import bar_chart, line_chart, timeline


def test_curves_lie_where_their_numbers_are() -> None:
    svg = line_chart("t", {"a": [(0, 0.0), (10, 1.0), (5, float("nan"))]}, "x", "y").svg
    spots = [(float(x), float(y)) for x, y in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert spots == [(62.0, 200.0), (626.0, 12.0)]


def test_bars_are_as_long_as_their_numbers() -> None:
    svg = bar_chart("t", [("a", {"s": 50.0}), ("b", {"s": 100.0})], "%", most=100.0).svg
    first, second = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg))
    assert first == pytest.approx(second / 2, abs=0.1)


def test_a_timeline_has_a_bar_for_each_stretch() -> None:
    svg = timeline("t", [("a", "pruner", [(0, 2), (5, 6)])], 10).svg
    assert "epochs 0 to 1" in svg
    assert "epoch 5" in svg
    assert svg.count("<rect") == 2

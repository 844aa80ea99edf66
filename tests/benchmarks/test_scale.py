"""What grows with a network grows in proportion: counted in calls of our functions, which no load changes."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmarks.scale import POINTS, empty_folder

ROOT = str(Path(__file__).resolve().parents[2])
FEW = 12  # calls by which a function may grow more than in proportion


def calls(point: str, size: int) -> Counter[str]:
    """How often each function of this project is called."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            found[f"{frame.f_code.co_filename[len(ROOT) + 1 :]}: {frame.f_code.co_name}"] += 1

    with empty_folder():
        sys.setprofile(note)
        try:
            POINTS[point](size)
        finally:
            sys.setprofile(None)
    return found


@pytest.mark.parametrize(
    "point",
    ["chain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("groups", "thinning", "report", "policies"))],
)
def test_calls_grow_in_proportion(point: str) -> None:
    """A second step of the same length costs what the first one did; a quadratic part would cost it twice over."""
    step = 30 if point == "policies" else 5
    calls(point, step)  # what is looked up once
    first, second, third = (calls(point, step * times) for times in (1, 2, 3))
    faults = {
        name: (first[name], second[name], third[name])
        for name in third
        if third[name] - second[name] > 1.15 * (second[name] - first[name]) + FEW
    }
    assert not faults

"""The manual's page of growth is what benchmarks/growth.json says, and its exponents are those of the points."""

import json
from typing import Any

import pytest

from benchmarks import growth, scale

ROWS = json.loads(growth.DATA.read_text(encoding="utf-8"))


def row(size: int, seconds: float | None) -> dict[str, Any]:
    return {"point": "chain", "size": size, "seconds": seconds, "mb": 1.0, "machine": "m", "date": "d", "load": ""}


def test_the_page_holds_what_was_measured() -> None:
    text = growth.PAGE.read_text(encoding="utf-8")
    assert growth.written(text, growth.page(ROWS, scale.WHY)) == text
    assert {(each["point"], each["size"]) for each in ROWS} == {
        (point, size) for point, sizes in scale.SIZES.items() for size in sizes
    }


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_largest_sizes(power: float) -> None:
    rows = [row(10, 5.0), *(row(size, size**power) for size in (100, 1000)), row(10_000, None)]
    assert growth.exponent(rows) == pytest.approx(power)


def test_what_grows_faster_is_explained() -> None:
    for point in scale.SIZES:
        found = growth.exponent([each for each in ROWS if each["point"] == point])
        assert found <= growth.LINEAR or scale.WHY.get(point), point

"""What a table of runtimes says in words."""

from typing import Any

from compress.export.runtimes.base import milliseconds_text
from compress.export.runtimes.text import fastest_of


def row(runtime: str, network: str, low: float, ms: float | None, high: float) -> dict[str, Any]:
    return {"runtime": runtime, "network": network, "precision": "float32", "quantized": False, "ms": ms, "low": low,
            "high": high}  # fmt: skip


def test_milliseconds_are_never_powers_of_ten() -> None:
    given = (0.001234, 1.254, 99.96, 999.4, 999.6, 12345.6)
    assert [milliseconds_text(each) for each in given] == ["0.00123", "1.25", "100", "999", "1000", "12346"]
    assert milliseconds_text(1234.56, 4) == "1235"


def test_the_fastest_is_named_with_those_that_are_not_shown_to_be_slower() -> None:
    rows = [
        row("a", "dense", 8, 9, 10), row("b", "dense", 5, 6, 7), row("c", "dense", 6.5, 7.5, 8),
        row("d", "dense", 0, None, 0),
        row("a", "net", 3, 3.5, 4), row("b", "net", 4.5, 5, 5.5), row("a", "other", 1, 2, 3),
    ]  # fmt: skip
    assert fastest_of(rows) == [
        "fastest for dense: b (float32), 6 ms; no difference shown to c (float32)",
        "fastest for net: a (float32), 3.5 ms",
    ]

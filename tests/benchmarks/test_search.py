"""The table of benchmarks/search.py."""

from typing import Any

from benchmarks.search import Row, table


def record(verdict: str) -> dict[str, Any]:
    return {"verdict": verdict, "rows": [{"goal": "latency at most 0.5", "value": 0.49, "verdict": verdict}]}


def test_what_was_not_met_or_not_measured_is_in_the_table() -> None:
    rows = [
        Row("sr-0-seed0-tpe", 0, record("met"), record("missed"), 12, 61.2, "done"),
        Row("sr-0-seed1-tpe", 4, None, None, 0, 60.0, "no candidate is predicted to meet it"),
        Row("sr-0-seed0-random", 0, record("undecided"), record("met"), 9, 60.5, "done"),
    ]
    text = table(rows)
    assert "missed (latency at most 0.5: 0.490 missed)" in text
    assert "tpe: of 2 searches 1 met their goals on validation, 0 on test data" in text
    assert "random: of 1 searches 0 met their goals on validation, 1 on test data" in text
    assert str(rows[1]).startswith("sr-0-seed1-tpe: exit code 4; no candidate is predicted to meet it; 0 trials")

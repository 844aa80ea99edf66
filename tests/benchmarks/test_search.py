"""The table of benchmarks/search.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search import Row, lines_of, rank, table


def record(verdict: str) -> dict[str, Any]:
    row = {"goal": "latency at most 0.5", "metric": "latency", "bound": 0.5, "value": 0.49, "margin": 0.01}
    return {"verdict": verdict, "rows": [{**row, "verdict": verdict}]}


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


def measured(time: float, drop: float) -> dict[str, Any]:
    rows = [
        {"goal": name, "metric": name, "bound": bound, "margin": bound - value, "value": value, "verdict": ""}
        for name, bound, value in (("latency", 0.5, time), ("psnr", 0.2, drop))
    ]
    return {"verdict": "met" if time <= 0.5 and drop <= 0.2 else "missed", "rows": rows}


def test_goals_come_first_and_quality_decides_between_searches_that_meet_them() -> None:
    ordered = [None, measured(0.6, -0.5), measured(0.51, -0.5), measured(0.3, 0.2), measured(0.5, 0.1)]
    assert [rank(each) for each in ordered] == sorted(rank(each) for each in ordered)
    assert len({rank(each) for each in ordered}) == len(ordered)
    unmeasured, noisy = measured(0.4, 0.0), measured(0.51, 0.05)
    unmeasured["rows"][0]["margin"] = None
    noisy["rows"][0]["verdict"] = "undecided"
    assert rank(unmeasured) < rank(ordered[1])
    assert rank(noisy) > rank(ordered[-1])


def test_each_sampler_is_compared_with_the_random_one_of_the_same_goals_and_seed() -> None:
    better, worse = measured(0.5, 0.1), measured(0.51, 0.1)
    rows = [Row(name, 0, validation, test, 1, 1.0, "") for name, validation, test in (
        ("sr-0-seed0-tpe", better, worse), ("sr-0-seed0-random", worse, better),
        ("sr-1-seed0-tpe", better, worse), ("sr-1-seed0-random", better, None),
        ("sr-0-seed1-tpe", worse, worse),
    )]  # fmt: skip
    said = "tpe: better than random or equal in 2 of 2 pairs on validation, in 1 on test data"
    assert table(rows).splitlines()[-1] == said


def test_kept_searches_are_lines_of_the_page_of_results(tmp_path: Path) -> None:
    better, worse = measured(0.49, 0.1), measured(0.49, 0.15)
    (tmp_path / "sr").mkdir()
    for name, found in {
        "sr-0-seed0-tpe": better, "sr-0-seed0-random": worse, "sr-1-seed0-tpe": worse, "sr-1-seed0-random": better,
        "sr-2-seed0-tpe": None,
    }.items():  # fmt: skip
        (tmp_path / "sr" / f"{name}.json").write_text(json.dumps(vars(Row(name, 0, found, found, 3, 6.0, "nothing"))))
    lines = list(lines_of(tmp_path))
    assert [(line.what, line.met) for line in lines] == [
        ("search, sr-0-seed0", True), ("search, sr-1-seed0", False), ("search, sr-2-seed0", False),
    ]  # fmt: skip
    assert lines[0].goal == "met on validation, not behind random"
    assert "psnr: 0.100" in lines[0].measured
    assert "(random: exit code 0" in lines[0].measured
    assert lines[2].goal == "met on validation"


def test_a_folder_without_searches_leaves_the_page_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no search"):
        list(lines_of(tmp_path))
    (tmp_path / "sr").mkdir()
    (tmp_path / "sr" / "sr-0-seed0-tpe.json").write_text('{"name": "sr')
    with pytest.raises(SystemExit, match=r"sr-0-seed0-tpe\.json cannot be read"):
        list(lines_of(tmp_path))

"""The page of speed: a column for each machine, the limit beside the number."""

from benchmarks.interleaved import Ratios
from benchmarks.results_page import page, ratio_line


def column(date: str, *lines: object) -> dict[str, object]:
    return {"date": date, "threads": 1, "load": "0.1", "versions": "Python 3", "lines": [vars(line) for line in lines]}


def test_each_machine_has_a_column_and_a_limit_stands_beside_its_ratio() -> None:
    limit = Ratios([1.02, 1.04, 1.06], 8.0)
    old = ratio_line("step", Ratios([1.1, 1.2, 1.3], 9.0), 1.15)
    new = ratio_line("step", Ratios([1.0, 1.1, 1.2], 7.0), 1.1, limit=limit)
    other = ratio_line("step of others", Ratios([2.0], 7.0), None)
    kept = {"qat": {"A": column("2026-01-01", old), "B": column("2026-01-02", new, other)}}

    text = page(kept, {"agp": "Masks.", "qat": "A QAT step."})

    assert "| what | against | goal | A | B |" in text
    assert (
        "| step | bare loop | <= 1.1 | 1.200 [1.100, 1.300], 9.0 ms; **not met** (<= 1.15) | "
        "1.100 [1.000, 1.200], 7.0 ms; limit 1.040; met (<= 1.1) |" in text
    )
    assert "| step of others | bare loop |  | not measured | 2.000 [2.000, 2.000], 7.0 ms |" in text
    assert "Masks" not in text  # not measured anywhere

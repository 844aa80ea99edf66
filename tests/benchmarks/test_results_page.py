"""The page of speed: a column for each machine, the limit beside the number."""

from benchmarks.interleaved import Ratios
from benchmarks.results_page import Line, joined, page, ratio_line, remembering


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


def test_a_part_of_a_row_leaves_its_other_lines_with_their_date() -> None:
    old = column("2026-01-01", Line("a", "-", "1"), Line("b", "-", "2"))
    new = joined(old, column("2026-01-02", Line("b", "-", "3"), Line("c", "-", "4")))
    newest = joined(new, column("2026-01-03", Line("c", "-", "5")))

    text = page({"qat": {"A": newest}}, {"qat": "A QAT step."})

    rows = [line.split("|")[1:5:3] for line in text.splitlines()[-3:]]
    assert rows == [[" a ", " 1; on 2026-01-01 "], [" b ", " 3; on 2026-01-02 "], [" c ", " 5 "]]
    assert joined(None, new) == new


def test_a_row_that_is_measured_again_says_what_the_first_measurement_gave() -> None:
    first = column("2026-01-01", Line("a", "-", "1.2 times; 0 differ", "<= 1"), Line("b", "-", "not measured", "<= 1"))
    second = remembering(first, column("2026-01-02", Line("a", "-", "1.1", "<= 1"), Line("b", "-", "2", "<= 1")))
    other = remembering(first, column("2026-01-02", Line("a", "-", "1.1")))
    third = remembering(second, column("2026-01-03", Line("a", "-", "1.0", "<= 1", True), Line("b", "-", "4", "<= 1")))

    assert [line.get("before") for line in second["lines"]] == ["1.2 times on 2026-01-01", None]
    assert [line.get("before") for line in third["lines"]] == ["1.2 times on 2026-01-01", "2 on 2026-01-02"]
    assert "before" not in other["lines"][0]  # no goal of ours
    assert "| 1.0; met (<= 1); before: 1.2 times on 2026-01-01 |" in page({"qat": {"A": third}}, {"qat": "A QAT step."})

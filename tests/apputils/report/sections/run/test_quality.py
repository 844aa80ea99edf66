"""What a tester adds to its metrics."""

import re
from pathlib import Path
from typing import Any

import openpyxl

from apputils.report.sections.run.quality import detail_tables


def test_what_the_tester_tells_beyond_its_metrics_is_shown(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    table = text[text.index('aria-label="classes"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["&lt;cat&gt;", "97.22", "dog", ""]
    assert "0.25, 0.75" in text
    assert 'aria-label="remark"' not in text
    book = openpyxl.load_workbook(written[1] / "report.xlsx")
    assert list(book["classes"].iter_rows(values_only=True)) == [
        ("class", "accuracy"), ("<cat>", 97.22222), ("dog", None),
    ]  # fmt: skip


def test_all_numbers_of_a_column_have_the_same_digits() -> None:
    rows = [{"accuracy": 100.0, "left": 0.25, "images": 36}, {"accuracy": 72.2222, "left": 1, "images": 1234}]
    (table,) = detail_tables({"classes": rows})
    assert [[shown for _, shown in row] for row in table.shown()[1]] == [
        ["100.00", "0.2500", "36"], ["72.22", "1.0000", "1234"],
    ]  # fmt: skip

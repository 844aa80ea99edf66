"""What a tester adds to its metrics."""

import re
from pathlib import Path
from typing import Any

import openpyxl


def test_what_the_tester_tells_beyond_its_metrics_is_shown(written: tuple[dict[str, Any], Path]) -> None:
    text = (written[1] / "report.html").read_text()
    table = text[text.index('aria-label="classes"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["&lt;cat&gt;", "97.2222", "dog", ""]
    assert "0.25, 0.75" in text
    assert 'aria-label="remark"' not in text
    book = openpyxl.load_workbook(written[1] / "report.xlsx")
    assert list(book["classes"].iter_rows(values_only=True)) == [
        ("class", "accuracy"), ("<cat>", 97.22222), ("dog", None),
    ]  # fmt: skip

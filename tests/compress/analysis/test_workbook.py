"""Workbooks: what a reader of the file finds again."""

from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from compress.analysis.workbook import Workbook, write_tables
from compress.errors import UserError

FRAME = pd.DataFrame(
    {"weight": ["a", "=1+1"], "shape": [(1, 3), (2, 4)], "zeros": [12345, 0], "fine": [0.25, float("nan")]}
)


def test_cells_hold_the_numbers_and_text_stays_text(tmp_path: Path) -> None:
    write_tables(tmp_path / "new" / "t.xlsx", {"values": FRAME}, percent=["fine"])
    sheet = openpyxl.load_workbook(tmp_path / "new" / "t.xlsx")["values"]
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    assert rows == [
        ["weight", "shape", "zeros", "fine"],
        ["a", "1 x 3", 12345, 0.25],
        ["=1+1", "2 x 4", 0, None],
    ]
    assert sheet["A3"].data_type == "s"  # no formula
    assert sheet["D2"].number_format == "0.00%"
    assert sheet["C2"].number_format == "#,##0"
    assert sheet.freeze_panes == "B2"


@pytest.mark.parametrize("kind", ["line", "bar", "scatter"])
def test_a_chart_points_at_its_columns_and_shows_its_axes(tmp_path: Path, kind: str) -> None:
    book = Workbook()
    data = book.add_table("values", FRAME, note="a note")
    book.add_chart(data, kind, x="zeros", series=["fine"], title="Fine", on=book.add_sheet("charts"), anchor="B2")  # type: ignore[arg-type]
    book.save(tmp_path / "t.xlsx")
    read = openpyxl.load_workbook(tmp_path / "t.xlsx")
    [chart] = read["charts"]._charts
    [series] = chart.series
    values = series.yVal if kind == "scatter" else series.val
    assert values.numRef.f.replace("'", "") == "values!$D$4:$D$5"
    assert not chart.x_axis.delete
    assert not chart.y_axis.delete


def test_titles_are_cut_and_made_unique() -> None:
    book = Workbook()
    for title in ("a" * 40, "A" * 40, "x/y[1]"):
        book.add_table(title, FRAME)
    assert book.book.sheetnames == ["a" * 31, "A" * 29 + " 2", "x_y_1_"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write_tables(tmp_path / "t.xlsx", {"values": FRAME})
    assert [path.name for path in tmp_path.iterdir()] == ["t.xlsx"]


def test_a_sheet_prints_as_wide_as_a_page() -> None:
    sheet = Workbook().add_table("values", pd.DataFrame({"a": [1]})).sheet
    assert sheet.page_setup.orientation == "landscape"
    assert (sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight) == (1, 0)
    assert sheet.sheet_properties.pageSetUpPr.fitToPage


def test_a_column_is_wide_enough_for_small_numbers() -> None:
    sheet = Workbook().add_table("values", pd.DataFrame({"a": [-1.25e-5]})).sheet
    assert sheet.column_dimensions["A"].width >= len("-1.250E-05")

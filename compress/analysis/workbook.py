"""Excel workbooks: tables as formatted sheets, and native charts over them.

Openpyxl's part, so that every analysis writes its numbers in one look. Called by the analyses and the report.

    book = Workbook()
    sheet = book.add_table("values", frame, percent=["fine"], note="fractions of zeros")
    book.add_chart(sheet, "line", x="level", series=["psnr"], title="PSNR over level", y_title="dB")
    book.save(Path("results/run/sense.xlsx"))
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compress.errors import UserError
from compress.io.files import replacing, why
from compress.io.optional import on_use

if TYPE_CHECKING:
    import openpyxl
    import pandas as pd
    from openpyxl import chart as charts
    from openpyxl import styles
    from openpyxl.worksheet.worksheet import Worksheet
else:
    openpyxl, pd = on_use("openpyxl"), on_use("pandas")
    charts, styles = on_use("openpyxl.chart"), on_use("openpyxl.styles")

ChartKind = Literal["line", "bar", "scatter"]
MAX_TITLE = 31  # characters of a sheet's title, Excel's limit
_HEAD = {"patternType": "solid", "fgColor": "DDE6F0"}


@dataclass(frozen=True)
class TableSheet:
    """A table that was written.

    Attributes:
        sheet: openpyxl's sheet.
        columns: name -> column number, counted from 1.
        head: row number of the header, counted from 1; the data begin in the next row.
        rows: number of data rows.
    """

    sheet: Worksheet
    columns: dict[str, int]
    head: int
    rows: int


class Workbook:
    """A workbook in the making; nothing is on disk before `save`."""

    def __init__(self) -> None:
        self.book = openpyxl.Workbook()
        self.book.remove(self.book.active)

    def add_table(
        self, title: str, table: pd.DataFrame, *, percent: Sequence[str] = (), note: str | None = None
    ) -> TableSheet:
        """Writes a frame as a sheet: bold frozen header, filters, widths that fit, whole numbers with separators.

        Args:
            title: of the sheet; cut to 31 characters, made unique, without the characters that Excel forbids.
            table: its columns are written, its index is not. A tuple or list (a shape) becomes `1 x 3 x 8 x 8`; None
                and NaN become empty cells.
            percent: columns of fractions, shown in per cent (the cell holds the fraction).
            note: a sentence above the table.
        """
        sheet = self.add_sheet(title)
        head, head_fill = 1, styles.PatternFill(**_HEAD)
        if note is not None:
            sheet.cell(1, 1, note).font = styles.Font(italic=True)
            head = 3
        for number, name in enumerate(table.columns, start=1):
            cell = sheet.cell(head, number, str(name))
            cell.font, cell.fill = styles.Font(bold=True), head_fill
            cell.alignment = styles.Alignment(wrap_text=True, vertical="top")
            values = [_plain(value) for value in table[name]]
            for row, value in enumerate(values, start=head + 1):
                _write(sheet, row, number, value, percent=name in percent)
            sheet.column_dimensions[_letter(number)].width = _width(str(name), values)
        sheet.freeze_panes = sheet.cell(head + 1, 2)
        sheet.auto_filter.ref = f"A{head}:{_letter(max(len(table.columns), 1))}{head + len(table)}"
        columns = {str(name): number for number, name in enumerate(table.columns, start=1)}
        return TableSheet(sheet, columns, head, len(table))

    def add_chart(
        self,
        data: TableSheet,
        kind: ChartKind,
        *,
        x: str,
        series: Sequence[str],
        title: str,
        y_title: str = "",
        x_title: str | None = None,
        on: Worksheet | None = None,
        anchor: str | None = None,
    ) -> None:
        """Puts a native chart of some columns on a sheet.

        Args:
            data: the table with the numbers.
            kind: `line` and `bar` take `x` as categories in even steps, `scatter` as numbers.
            x: column of the horizontal axis.
            series: columns, one curve or group of bars each.
            title: of the chart.
            y_title: of the vertical axis, with its unit.
            x_title: of the horizontal axis; None takes `x`.
            on: the sheet that shows it; None puts it to the right of the table.
            anchor: cell of its upper left corner, such as `B2`.
        """
        chart = {"line": charts.LineChart, "bar": charts.BarChart, "scatter": charts.ScatterChart}[kind]()
        chart.title, chart.y_axis.title, chart.x_axis.title = title, y_title, x if x_title is None else x_title
        chart.x_axis.delete = chart.y_axis.delete = False  # openpyxl writes charts without axes otherwise
        chart.height, chart.width = 10, 20  # cm
        along = self._reference(data, x)
        for name in series:
            values = charts.Reference(data.sheet, data.columns[name], data.head, max_row=data.head + data.rows)
            if kind == "scatter":
                chart.series.append(charts.Series(values, along, title_from_data=True))
            else:
                chart.add_data(values, titles_from_data=True)
        if kind != "scatter":
            chart.set_categories(along)
        for curve in chart.series:
            curve.smooth = False
        where = anchor or f"{_letter(len(data.columns) + 2)}{2 + 21 * len(data.sheet._charts)}"
        (on or data.sheet).add_chart(chart, where)

    def add_sheet(self, title: str) -> Worksheet:
        """An empty sheet, for charts; `title` as in `add_table`. It is printed as wide as a page, lying."""
        sheet = self.book.create_sheet(self._free_title(title))
        sheet.page_setup.orientation, sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight = "landscape", 1, 0
        sheet.sheet_properties.pageSetUpPr = openpyxl.worksheet.properties.PageSetupProperties(fitToPage=True)
        return sheet

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all; the folder is made if needed.

        Raises:
            UserError: the file cannot be written (open in Excel, no permission, a full disk).
        """
        for cell in (cell for sheet in self.book for row in sheet.iter_rows() for cell in row):
            if cell.data_type == "f":
                cell.data_type = "s"  # text that begins with "=" is not a formula
        try:
            with replacing(path) as temporary:
                self.book.save(temporary)
        except OSError as e:
            raise UserError(
                f"the workbook {path} could not be written: {why(e)}; is it open in another program?"
            ) from e

    @staticmethod
    def _reference(data: TableSheet, column: str) -> charts.Reference:
        return charts.Reference(data.sheet, data.columns[column], data.head + 1, max_row=data.head + data.rows)

    def _free_title(self, title: str) -> str:
        stem = re.sub(r"[\[\]:*?/\\]", "_", title).strip("'")[:MAX_TITLE] or "sheet"
        taken = {name.lower() for name in self.book.sheetnames}
        found, number = stem, 2
        while found.lower() in taken:
            ending = f" {number}"
            found, number = stem[: MAX_TITLE - len(ending)] + ending, number + 1
        return found


def write_tables(path: Path, tables: dict[str, pd.DataFrame], percent: Sequence[str] = ()) -> None:
    """Writes several frames as one workbook, sheet by sheet."""
    book = Workbook()
    for title, table in tables.items():
        book.add_table(title, table, percent=percent)
    book.save(path)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain data for JSON: shapes are lists, NaN is None."""
    return [
        {str(name): list(value) if isinstance(value, list | tuple) else _plain(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def shape_text(shape: Sequence[int]) -> str:
    """`(1, 3, 8, 8)` -> `1 x 3 x 8 x 8`."""
    return " x ".join(map(str, shape))


def _plain(value: Any) -> Any:
    """What a cell may hold."""
    if isinstance(value, list | tuple):
        return shape_text(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return value if isinstance(value, bool | int | float) else str(value)


def _letter(column: int) -> str:
    return str(openpyxl.utils.get_column_letter(column))


def _write(sheet: Worksheet, row: int, column: int, value: Any, *, percent: bool) -> None:
    cell = sheet.cell(row, column, value)
    if percent and not isinstance(value, str):
        cell.number_format = "0.00%"
    elif isinstance(value, float):
        cell.number_format = "0.0000" if 1e-3 <= abs(value) < 1e5 or value == 0 else "0.000E+00"
    elif isinstance(value, int) and not isinstance(value, bool):
        cell.number_format = "#,##0"


def _width(name: str, values: list[Any]) -> float:
    longest = max((len(_shown(value)) for value in values), default=0)
    return min(max(longest, min(len(name), 14), 6) + 2, 60)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"
    return f"{value:,}" if isinstance(value, int) else str(value or "")

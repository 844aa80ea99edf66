"""Tables of the report: rows of plain data, the columns that the page shows of them, and their sheet in the workbook.

    Table("rain", [{"month": "May", "mm": 61.5}])

is on the page and in the workbook with all its columns as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from compress.analysis.workbook import ChartKind, shape_text

Row = Mapping[str, Any]
Cell = tuple[Any, str]  # what the page sorts by, and what it shows


def short(value: Any) -> str:
    """Whole numbers in full, others with at most four digits behind the point."""
    if value is None:
        return ""
    return f"{value:,.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def whole(value: float | None) -> str:
    """`12,345`."""
    return "" if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """`12.34 %` of a fraction."""
    return "" if value is None else f"{100 * value:.2f} %"


def figure(value: Any) -> str:
    """Four digits behind the point of what is not a whole number."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def shape(value: Sequence[int]) -> str:
    """`1 x 3 x 8 x 8`, on one line."""
    return shape_text(value).replace(" ", "\u00a0")


@dataclass(frozen=True)
class Column:
    """A column of a table on the page.

    Attributes:
        head: what stands above it.
        cell: row -> what it is sorted by (a number also moves to the right), and what is shown.
    """

    head: str
    cell: Callable[[Row], Cell]


def column(key: str, head: str = "", text: Callable[[Any], str] = short) -> Column:
    """A column of one value of each row; without a head it is called by the key."""
    return Column(head or key, lambda row: (row.get(key), text(row.get(key))))


@dataclass(frozen=True)
class Plot:
    """A native chart of a sheet; its fields are arguments of `Workbook.add_chart`."""

    kind: ChartKind
    x: str
    series: Sequence[str]
    title: str
    y_title: str = ""


@dataclass(frozen=True)
class Sheet:
    """How a table stands in the workbook, with all keys of its rows as columns.

    Attributes:
        title: of the sheet; empty takes the table's name.
        percent: columns of fractions, shown in per cent.
        note: a sentence above the table.
        plots: native charts.
        counts: columns of whole numbers, which a gap does not make floats.
    """

    title: str = ""
    percent: Sequence[str] = ()
    note: str | None = None
    plots: Sequence[Plot] = ()
    counts: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table; without rows it is nowhere.

    Attributes:
        name: of the table.
        rows: plain data by key.
        columns: of the page; empty shows every key as it is, None leaves the table off the page.
        sheet: of the workbook; None leaves it out there.
    """

    macro: ClassVar = "table"
    name: str
    rows: Sequence[Row]
    columns: Sequence[Column] | None = ()
    sheet: Sheet | None = Sheet()

    def shown(self) -> tuple[list[str], list[list[Cell]]]:
        """Heads and rows of cells for the page."""
        columns = self.columns or [column(key) for key in dict.fromkeys(key for row in self.rows for key in row)]
        return [each.head for each in columns], [[each.cell(row) for each in columns] for row in self.rows]

"""The workbook of a report or a comparison: a sheet a table, with native charts."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from apputils.report.section import Content, Section
from apputils.report.tables import Sheet, Table
from compress.analysis.workbook import Workbook


def write_book(path: Path, content: Content, sections: Sequence[Section]) -> None:
    """Writes the tables of all sections; one without rows has no sheet.

    Raises:
        UserError: it cannot be written.
    """
    book = Workbook()
    for table in (table for section in sections for table in section.tables(content)):
        if table.rows and table.sheet is not None:
            _add(book, table, table.sheet)
    book.save(path)


def _add(book: Workbook, table: Table, how: Sheet) -> None:
    frame = pd.DataFrame(list(table.rows))
    for name in how.counts:
        frame[name] = frame[name].convert_dtypes()
    sheet = book.add_table(how.title or table.name, frame, percent=how.percent, note=how.note)
    for plot in how.plots:
        book.add_chart(sheet, **asdict(plot))

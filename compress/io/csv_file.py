"""CSV files that a spreadsheet can open without running what stands in them.

`write_csv`, the one writer of CSV; `harmless`. A name that comes from data, such as a class's, may begin like a
formula (`=cmd|...`); an apostrophe before it makes it text (OWASP, "CSV injection").
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.io.files import replacing

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are wide forms


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table, whole or not at all; its folder is made if needed.

    Args:
        path: of the file.
        columns: the header.
        rows: values in the order of the columns; numbers stay as they are, None is empty.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([harmless(each) for each in columns])
        writer.writerows([harmless(each) for each in row] for row in rows)


def write_records(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows by column name; a column may be new in a later row."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def write_frame(path: Path, table: pd.DataFrame) -> None:
    """Writes a frame without its index; NaN is empty."""
    plain = table.astype(object).where(table.notna(), None)
    write_csv(path, [str(name) for name in table.columns], plain.itertuples(index=False, name=None))


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; what is a number stays one, as text too."""
    if not isinstance(value, str) or not value.startswith(FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()

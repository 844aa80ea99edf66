"""What a tester has to tell beyond its metrics, as tables: accuracy of each class, early exits.

`detail_tables`, from the summary's `details`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class DetailTable(NamedTuple):
    """One table.

    Attributes:
        name: what it is about.
        heads: of the columns.
        rows: values of each row, in the order of the heads: numbers, text or None.
    """

    name: str
    heads: list[str]
    rows: list[list[Any]]


def detail_tables(details: Mapping[str, Any]) -> list[DetailTable]:
    """A table for each entry that is a list of rows; other entries are in report.json alone."""
    found = []
    for name, rows in details.items():
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            heads = list(rows[0])
            found.append(DetailTable(name, heads, [[_cell(row.get(head)) for head in heads] for row in rows]))
    return found


def _cell(value: Any) -> Any:
    """A list of numbers as text."""
    return ", ".join(f"{each:.4g}" for each in value) if isinstance(value, list) else value

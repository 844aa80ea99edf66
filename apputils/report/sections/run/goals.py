"""The goals of the run's schedule: value, bound, margin, and whether each is met."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Text, Tile, absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.tables import Cell, Column, Row, Table, column
from compress.analysis.measured_words import measured_words
from compress.goals.judge import words_of_row


class Goals(Section):
    """One table; a schedule without goals has a sentence."""

    name, title = "goals", "Goals"
    missing = absent("No goals", "a schedule's section `goals` says what the deployed network must meet.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The record of the evaluation, None without goals."""
        return {"goals": source.summary.get("goals")}

    def tiles(self, content: Content) -> list[Tile]:
        """How many are met."""
        record = content["goals"]
        if not record:
            return []
        return [Tile(record["verdict"], "goals", [f"{row['verdict']}: {row['goal']}" for row in record["rows"]])]

    def tables(self, content: Content) -> list[Table]:
        """One row a goal."""
        return [Table("goals", content["goals"]["rows"], COLUMNS)] if content["goals"] else []

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The table, on what it was measured, what could not be measured."""
        record = content["goals"]
        if not record:
            return [self.missing]
        notes = [Text(f"{row['goal']}: {row['note']}", "quiet") for row in record["rows"] if row["note"]]
        error = [absent("Not measured", record["error"])] if record.get("error") else []
        return [*self.tables(content), *error, *([Text(how(record), "quiet")] if record["rows"] else []), *notes]


def how(record: Mapping[str, Any]) -> str:
    """On what a record was measured."""
    dense = f"; the dense network is {record['dense']}" if record["dense"] else ""
    return (
        f"Measured on {record['file']}, quality on {measured_words(record['measured_on'])}{dense}. A value whose "
        "distance from its bound is not larger than the noise is undecided."
    )


def _column(key: str) -> Column:
    def cell(row: Row) -> Cell:
        return row[key], words_of_row(row)[key]

    return Column(key, cell)


COLUMNS = (column("goal"), *(_column(key) for key in ("value", "bound", "margin", "noise")), column("verdict"))

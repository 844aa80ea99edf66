"""Quality beside the trivial method's and the dense network's, images, and what a tester adds to its metrics."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Heading, Images, Text, Tile
from apputils.report.images import images_of
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.tables import Sheet, Table, column, short
from apputils.runs.summary import quality_rows
from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of

HEADS = ("metric", "baseline", "of the baseline", "of the model", "gain")


class Quality(Section):
    """Metrics, details of the tester (accuracy of each class, early exits), images under a slider."""

    name, title = "quality", "Quality"

    def collect(self, source: Source) -> dict[str, Any]:
        """Values, and the rows that say them to people."""
        summary = source.summary
        return {
            "quality": summary["quality"],
            "quality_rows": quality_rows(summary["quality"]),
            "measured_on": measured_words(summary["measured_on"]),
            "dense_baseline": summary.get("dense"),
            "details": summary.get("details") or {},
        }

    def tiles(self, content: Content) -> list[Tile]:
        """A tile a metric."""
        return [_tile(metric, values) for metric, values in content["quality"].items()]

    def tables(self, content: Content) -> list[Table]:
        """In words for the page, as numbers for the workbook; the details are in both."""
        values = [
            {"metric": metric, "of": of, "value": value, "gain of the model": each["model"] - value}
            for metric, each in content["quality"].items()
            for of, value in each.items()
        ]
        words = [dict(zip(HEADS, row, strict=True)) for row in content["quality_rows"]]
        book = Table("quality", values, columns=None, sheet=Sheet(note=f"measured on {content['measured_on']}"))
        return [Table("quality", words, sheet=None), book, *detail_tables(content["details"])]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """On which data, the metrics, each detail below its heading, the images."""
        metrics, _, *details = self.tables(content)
        headed = [block for table in details for block in (Heading(table.name), table)]
        images = images_of(folder / "images")
        measured = Text(f"Measured on {content['measured_on']}.")
        return [measured, metrics, *headed, *([Images(images)] if images else [])]


def detail_tables(details: Mapping[str, Any]) -> list[Table]:
    """A table for each entry that is a list of rows; other entries are in report.json alone."""
    found = []
    for name, rows in details.items():
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            cells = [{head: _cell(row.get(head)) for head in rows[0]} for row in rows]
            found.append(Table(name, cells, [column(head, text=_digits(cells, head)) for head in rows[0]]))
    return found


def _digits(rows: Sequence[Mapping[str, Any]], head: str) -> Callable[[Any], str]:
    """All numbers of a column alike: two digits behind the point of per cents and the like, four of fractions."""
    numbers = [row[head] for row in rows if isinstance(row[head], float)]
    places = 2 if any(abs(each) >= 2.0 for each in numbers) else 4
    return lambda value: f"{value:,.{places}f}" if numbers and isinstance(value, int | float) else short(value)


def _cell(value: Any) -> Any:
    """A list of numbers as text."""
    return ", ".join(f"{each:.4g}" for each in value) if isinstance(value, list) else value


def _tile(metric: str, values: Mapping[str, float]) -> Tile:
    words, model = words_of(metric), values["model"]
    others = {name: value for name, value in values.items() if name != "model"}
    small = [f"{name}: {words.value(value)} ({words.change(model - value)})" for name, value in others.items()]
    return Tile(words.value(model), words.title, small)

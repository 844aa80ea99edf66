"""`Section`: one part of the report, from its data to the page and the workbook.

    class Rain(Section):
        name, title = "rain", "Rain"

        def collect(self, source: Source) -> dict[str, Any]:
            return {"rain": source.json("rain.json") or []}

        def tables(self, content: Content) -> list[Table]:
            return [Table("rain", content["rain"])]

An instance in `SECTIONS` (section_list.py) puts it into report.json, report.html and report.xlsx.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from apputils.report.blocks import Block, Charts, Text, Tile, absent
from apputils.report.source import Source
from apputils.report.svg import Chart
from apputils.report.tables import Table

Content = Mapping[str, Any]  # report.json: what all sections collected


class Section:
    """A part of the report; what one does not override, it does not have.

    Attributes:
        name: anchor of the page.
        title: heading; empty keeps the section off the page (notes and tiles stand at its head).
        menu: link in the page's menu; empty takes the title.
        missing: shown where there is nothing to show.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    menu: ClassVar[str] = ""
    missing: ClassVar[Text] = absent("Not measured", "this run has no data for it.")

    def collect(self, source: Source) -> dict[str, Any]:
        """Its entries of report.json, as plain data; no two sections have the same key."""
        return {}

    def tables(self, content: Content) -> list[Table]:
        """Tables of the page and of the workbook."""
        return []

    def charts(self, content: Content) -> list[Chart]:
        """Charts of the page; those of the workbook belong to its tables' sheets."""
        return []

    def notes(self, content: Content) -> list[Text]:
        """What a reader must know first, at the head of the page."""
        return []

    def tiles(self, content: Content) -> list[Tile]:
        """Its figures in short, at the head of the page."""
        return []

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """All of it on the page: charts, then tables, or what is missing.

        Args:
            content: what all sections collected.
            folder: of the run's results, for images.
        """
        charts = self.charts(content)
        tables = [table for table in self.tables(content) if table.rows and table.columns is not None]
        return [*([Charts(charts)] if charts else []), *tables] or [self.missing]

"""Zeros of each weight, by element and by structure: sparsity.json."""

from typing import Any

from apputils.report.blocks import Tile, absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Plot, Sheet, Table, column, figure, percent, shape, whole
from compress.analysis.sparsity.table import GRANULARITIES

KINDS = {"fine": "elements", "filters": "filters", "channels": "channels", "2D": "kernels"}  # column -> in the chart
COLUMNS = (
    column("weight"), column("shape", text=shape), column("elements", text=whole), column("zeros", text=whole),
    *(column(name, text=percent) for name in ("fine", "filters", "channels", "rows", "columns", "2D", "blocks")),
    column("std", text=figure), column("mean", text=figure), column("mean_abs", "|w|", figure),
)  # fmt: skip


class Sparsity(Section):
    """A row and a group of bars a weight."""

    name, title = "sparsity", "Sparsity"
    missing = absent("Not measured", "sparsity_display writes sparsity.json.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The analysis as it is."""
        return {"sparsity": source.json("sparsity.json")}

    def tiles(self, content: Content) -> list[Tile]:
        """The summary's own number."""
        if not content["sparsity"]:
            return []
        zeros = percent(content["summary"]["sparsity"]["overall"])
        return [Tile(zeros, "zeros in all parameters", ["of what was not removed"])]

    def charts(self, content: Content) -> list[Chart]:
        """Elements, and the structures of which there are zero ones."""
        if not content["sparsity"]:
            return []
        weights = content["sparsity"]["weights"]
        kinds = {key: kind for key, kind in KINDS.items() if key == "fine" or any(row[key] for row in weights)}
        rows = [
            (row["weight"], {kind: 100 * row[key] for key, kind in kinds.items() if row[key] is not None})
            for row in weights
        ]
        return [bar_chart("Zeros by weight", rows, "%", most=100.0)]

    def tables(self, content: Content) -> list[Table]:
        """One table."""
        if not content["sparsity"]:
            return []
        plot = Plot("bar", "weight", ["fine", "filters"], "Zeros", "fraction")
        return [Table("sparsity", content["sparsity"]["weights"], COLUMNS, Sheet(percent=GRANULARITIES, plots=[plot]))]

"""Outputs of layers: zeros, ranges, dead channels, of activations.csv."""

from typing import Any

from apputils.report.blocks import absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Plot, Sheet, Table, column, figure, percent, whole

COLUMNS = (
    column("layer"), column("kind"), column("sparsity", "zeros", percent),
    *(column(name, text=figure) for name in ("mean", "std", "min", "max")),
    column("dead_channels", "dead channels", whole),
)  # fmt: skip


class Activations(Section):
    """A row a layer."""

    name, title = "activations", "Activations"
    missing = absent("Not measured", "activation statistics are written by test.py.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The rows as they are."""
        return {"activations": source.table("activations.csv")}

    def charts(self, content: Content) -> list[Chart]:
        """Layers that put out zeros."""
        rows = [(row["layer"] or row["kind"], {"zeros": 100 * row["sparsity"]}) for row in content["activations"] or []]
        rows = [row for row in rows if row[1]["zeros"] > 0]
        return [bar_chart("Zeros in outputs of layers", rows, "%", most=100.0)] if rows else []

    def tables(self, content: Content) -> list[Table]:
        """One table."""
        plot = Plot("bar", "layer", ["sparsity"], "Zeros in outputs", "fraction")
        return [Table("activations", content["activations"] or [], COLUMNS, Sheet(percent=["sparsity"], plots=[plot]))]

"""Curves of training, over epochs counted from 0."""

from collections.abc import Sequence
from typing import Any

from apputils.report.blocks import absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, line_chart
from apputils.report.tables import Plot, Row, Sheet, Table
from compress.analysis.metric_names import words_of

NO_CURVES = frozenset({"epoch", "lr", "sparsity", "images_per_second"})


class Training(Section):
    """Losses together, each metric alone, learning rate, sparsity."""

    name, title = "training", "Training"
    missing = absent("Not recorded", "the checkpoint has no history of training.")

    def collect(self, source: Source) -> dict[str, Any]:
        """One row an epoch."""
        return {"history": source.checkpoint.get("history", [])}

    def charts(self, content: Content) -> list[Chart]:
        """One chart a quantity; nothing without epochs."""
        history = content["history"]
        if not history:
            return []
        names = _names(history)
        plain = [name for name in names if name not in NO_CURVES and not name.startswith("sparsity/")]
        losses = [name for name in plain if name.endswith("loss")]
        charts = [_over_epochs("Loss and its components", history, losses, "loss")] if losses else []
        for name in plain:
            if name not in losses:
                charts.append(_over_epochs(words_of(name).title, history, [name], words_of(name).heading))
        charts.append(_over_epochs("Learning rate", history, ["lr"], "learning rate"))
        charts.append(_zeros_chart(history, [name for name in names if name.startswith("sparsity")]))
        return charts

    def tables(self, content: Content) -> list[Table]:
        """For the workbook, with a chart a quantity."""
        names = [name for name in _names(content["history"]) if name != "epoch" and "/" not in name]
        plots = [Plot("line", "epoch", [name], name) for name in names]
        return [Table("training", content["history"], columns=None, sheet=Sheet(plots=plots))]


def _names(history: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


def _over_epochs(title: str, history: Sequence[Row], names: list[str], label: str) -> Chart:
    curves = {name: [(row["epoch"], row[name]) for row in history if row.get(name) is not None] for name in names}
    return line_chart(title, curves, "epoch", label)


def _zeros_chart(history: Sequence[Row], names: list[str]) -> Chart:
    """Per cent of zeros in each scheduled weight, and in all of them together."""
    together = {"sparsity": "together"}
    curves = {
        together.get(name, name.removeprefix("sparsity/")): [
            (row["epoch"], 100 * row[name]) for row in history if row.get(name) is not None
        ]
        for name in names
    }
    return line_chart("Zeros in scheduled weights", curves, "epoch", "zeros, %")

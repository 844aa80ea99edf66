"""MACs and parameters of each layer, dense and now: macs.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Text, absent
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column, percent, shape, whole
from compress.analysis.macs.layers import layer_label
from compress.analysis.workbook import records


class Cost(Section):
    """Where the multiply-accumulates are."""

    name, title, menu = "cost", "MACs and parameters", "Cost"
    missing = absent("Not measured", "macs_display writes macs.json.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The analysis as it is, and that of the dense network."""
        dense = {"total": source.dense.total, "layers": records(source.dense.layers)}
        return {"macs": source.json("macs.json"), "dense": dense}

    def charts(self, content: Content) -> list[Chart]:
        """MACs and parameters of each layer: dense, now, and with zeros skipped."""
        layers = by_layer(content)
        if not layers:
            return []
        macs = [(row["layer"], _known(dense=row["dense MACs"], now=row["MACs now"], **_skipped(row))) for row in layers]
        sizes = [(row["layer"], _known(dense=row["dense parameters"], now=row["parameters now"])) for row in layers]
        sizes = [(layer, values) for layer, values in sizes if any(values.values())]
        return [bar_chart("MACs by layer", macs, "MACs"), bar_chart("Parameters by layer", sizes, "parameters")]

    def tables(self, content: Content) -> list[Table]:
        """The layers now on the page; those of the dense network, and both together, in the workbook."""
        dense = Table("macs dense", content["dense"]["layers"], columns=None)
        if not content["macs"]:
            return [dense]
        note = f"not counted: {', '.join(lost)}" if (lost := content["macs"].get("left_out")) else None
        plot = Plot("bar", "layer", ["macs", "effective_macs"], "MACs", "MACs")
        now = Table("MACs", content["macs"]["layers"], COLUMNS, Sheet("macs", ["share"], note, [plot]))
        plots = [
            Plot("bar", "layer", [f"dense {what}", f"{what} now", *more], f"{what}, dense and now", what)
            for what, more in (("MACs", ["MACs now, zeros skipped"]), ("parameters", []))
        ]
        layers = by_layer(content)
        counts = [name for row in layers[:1] for name in row if name != "layer"]
        return [now, dense, Table("by layer", layers, columns=None, sheet=Sheet(plots=plots, counts=counts))]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """Also which operations are not counted."""
        lost = (content["macs"] or {}).get("left_out")
        return [*super().blocks(content, folder), *([Text(f"Not counted: {', '.join(lost)}.")] if lost else [])]


def by_layer(content: Content) -> list[dict[str, Any]]:
    """One row a layer of the dense network or of this one: MACs and parameters, dense and now; None where it is not."""
    if not content["macs"]:
        return []
    now, dense = _sums(content["macs"]["layers"]), _sums(content["dense"]["layers"])
    rows = []
    for layer in dict.fromkeys([*dense, *now]):
        before, after = dense.get(layer, {}), now.get(layer, {})
        rows.append({
            "layer": layer, "dense MACs": before.get("macs"), "MACs now": after.get("macs"),
            "MACs now, zeros skipped": after.get("effective_macs"),
            "dense parameters": before.get("parameters"), "parameters now": after.get("parameters"),
        })  # fmt: skip
    return rows


def _sums(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Rows of one layer added up: a layer may be called twice."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        sums = found.setdefault(layer_label(row), {"macs": 0, "parameters": 0, "effective_macs": 0})
        for name in sums:
            sums[name] += row[name]
    return found


def _skipped(row: Mapping[str, Any]) -> dict[str, int | None]:
    """The effective MACs, where they are fewer."""
    now, fewer = row["MACs now"], row["MACs now, zeros skipped"]
    return {"now, zeros skipped": fewer} if now is not None and fewer < now else {}


def _known(**values: Any) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _layer(row: Row) -> Cell:
    return row["layer"], row["layer"] or f"{row['operation']} in {row['kind']} itself"


COLUMNS = (
    Column("layer", _layer), column("operation"), column("input_shape", "input", shape),
    column("output_shape", "output", shape), column("parameters", text=whole), column("macs", "MACs", whole),
    column("share", text=percent), column("effective_macs", "MACs, zeros skipped", whole),
    column("activation_bytes", "activation bytes", whole), column("intensity", "FLOP/byte", "{:.1f}".format),
)  # fmt: skip

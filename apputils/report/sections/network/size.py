"""What the network costs, beside the dense one."""

from collections.abc import Mapping
from typing import Any

from apputils.report.blocks import Tile
from apputils.report.section import Content, Section
from apputils.report.source import Source
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column, percent, whole
from apputils.report.ticks import number


class Size(Section):
    """Parameters, MACs, memory: dense and now."""

    name, title, menu = "size", "Size, dense and now", "Size"

    def collect(self, source: Source) -> dict[str, Any]:
        """One row a cost: what, of the dense network, of the network now."""
        dense, sparsity, macs = source.dense.total, source.json("sparsity.json"), source.json("macs.json")
        rows = [_row(name, dense[key], source.summary[short]) for name, key, short in _COUNTS]
        if sparsity:
            total = sparsity["total"]
            rows.append(
                _row("parameters that are not zero", dense["parameters"], total["all_parameters"] - total["all_zeros"])
            )
        if macs:
            rows += _measured(dense, macs["total"])
        stored = sum(tensor.numel() * tensor.element_size() for tensor in source.checkpoint["model"].values())
        return {"sizes": [*rows, _row("bytes of the state dict", None, stored)]}

    def tiles(self, content: Content) -> list[Tile]:
        """Parameters and MACs."""
        return [
            Tile(number(row["now"]), row["what"], [f"dense: {number(row['dense'])} ({_left(row):.1f} % left)"])
            for row in content["sizes"][: len(_COUNTS)]
        ]

    def tables(self, content: Content) -> list[Table]:
        """One table."""
        columns = [column("what"), column("dense", text=whole), column("now", text=whole), Column("left", _left_cell)]
        plot = Plot("bar", "what", ["dense", "now"], "Dense and now", "count")
        return [Table("size", content["sizes"], columns, Sheet(plots=[plot], counts=["dense", "now"]))]


_COUNTS = (("parameters", "parameters", "params"), ("MACs", "macs", "macs"))  # name, key of MacsTable, of the summary


def _row(what: str, dense: Any, now: Any) -> dict[str, Any]:
    return {"what": what, "dense": dense, "now": now}


def _measured(dense: Mapping[str, Any], total: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of macs.json."""
    rows = [
        _row("MACs, zeros skipped", dense["effective_macs"], total["effective_macs"]),
        _row("activation bytes alive at once", dense["peak_activation_bytes"], total["peak_activation_bytes"]),
    ]
    return rows + ([_row("BitOps", 32 * 32 * dense["macs"], total["bitops"])] if "bitops" in total else [])


def _left(row: Row) -> float:
    """Per cent."""
    return float(100 * row["now"] / row["dense"])


def _left_cell(row: Row) -> Cell:
    left = row["now"] / row["dense"] if row["dense"] else None
    return left, percent(left)

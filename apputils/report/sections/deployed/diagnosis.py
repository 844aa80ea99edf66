"""Where quantization loses: the curve through the network, every layer by itself, suspects. From diagnosis.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Charts, Text, absent
from apputils.report.section import Content, Section
from apputils.report.source import DIAGNOSIS, Source
from apputils.report.svg import Chart, line_chart
from apputils.report.tables import Column, Row, Table, column

CURVES = {"db": "simulated", "own_db": "each layer alone", "file_db": "file, each layer alone",
          "openvino_db": "file in OpenVINO, each layer alone"}  # fmt: skip


class Diagnosis(Section):
    """One row a layer, one sentence a suspect."""

    name, title, menu = "diagnosis", "Where quantization loses", "Diagnosis"
    missing = absent("Not diagnosed", "`python test.py --diagnose` shows where a quantized network loses, and why.")

    def collect(self, source: Source) -> dict[str, Any]:
        """As test.py --diagnose wrote it."""
        return {"diagnosis": None if DIAGNOSIS in source.stale else source.json(DIAGNOSIS)}

    def charts(self, content: Content) -> list[Chart]:
        """Signal to noise from the first layer to the last."""
        rows = (content["diagnosis"] or {}).get("rows", [])
        series = {
            title: [(i, row[key]) for i, row in enumerate(rows) if row.get(key) is not None]
            for key, title in CURVES.items()
        }
        series = {title: points for title, points in series.items() if len(points) > 1}
        return [line_chart("Signal to quantization noise", series, "layer", "dB")] if series else []

    def tables(self, content: Content) -> list[Table]:
        """Layers; suspects in the workbook."""
        found = content["diagnosis"]
        if not found:
            return []
        suspects = [{key: str(value) for key, value in each.items()} for each in _named(found)]
        return [Table("diagnosis", found["rows"], COLUMNS), Table("suspects", suspects, columns=None)]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """Suspects first, then the curve and the layers."""
        found = content["diagnosis"]
        if not found:
            return [self.missing]
        texts = [
            Text(f"{i}. {each['layer']} ({each['where']}): {each['cause']}. Remedy: {each['remedy']}.", "absent")
            for i, each in enumerate(_named(found), 1)
        ]
        fitting = "No layer loses more than its bits have to lose"
        if not found["suspects"]:
            texts.insert(0, Text(f"{fitting}, but the bits are few." if texts else f"{fitting}.", "quiet"))
        return [*texts, Charts(self.charts(content)), *self.tables(content)[:1]]


def _named(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [*found["suspects"], *found.get("costly", [])]


def _figure(key: str, head: str, form: str = "{:.1f}") -> Column:
    def cell(row: Row) -> tuple[Any, str]:
        value = row.get(key)
        return value, "" if value is None else form.format(value)

    return Column(head, cell)


COLUMNS = (
    column("layer"), column("kind"), _figure("db", "dB"), _figure("own_db", "dB alone"),
    _figure("weight_db", "weight, dB"), _figure("act_db", "activation, dB"),
    _figure("clipped", "cut off", "{:.2%}"), _figure("used", "range used", "{:.2f}"),
    _figure("dead_channels", "dead channels", "{:.0%}"), _figure("file_db", "file, dB"),
    _figure("openvino_db", "in OpenVINO, dB"),
)  # fmt: skip

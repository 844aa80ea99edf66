"""`compare.html`: one file that needs nothing else, in the report's looks.

The template filled in, the plots of quality over cost.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apputils.compare.pareto import pareto_front
from apputils.report.page import world
from apputils.report.svg import Chart, bar_chart, scatter_chart
from compress.analysis.metric_names import words_of

TEMPLATES = Path(__file__).parent / "templates"
COSTS = {  # column -> (what the title says, the axis's unit)
    "torch_ms": ("latency in PyTorch", "ms"),
    "onnxruntime_ms": ("latency in onnxruntime", "ms"),
    "macs": ("MACs", "MACs of a forward pass"),
    "effective_macs": ("MACs without zeros", "MACs, those with a zero weight skipped"),
    "file_bytes": ("file size", "bytes of the ONNX file"),
}


def render(content: Mapping[str, Any]) -> str:
    """The page of what `compared` gave."""
    template = world(TEMPLATES).get_template("compare.html.j2")
    return template.render(comparison=content, pareto=pareto_charts(content), bars=_bars(content))


def pareto_charts(content: Mapping[str, Any]) -> list[Chart]:
    """Each metric over each cost, the front as a line; only costs in which the candidates differ."""
    charts = []
    for metric, higher in content["metrics"].items():
        for cost, (name, unit) in COSTS.items():
            rows = [row for row in content["rows"] if row[cost] is not None and row[metric] is not None]
            if len({row[cost] for row in rows}) < 2:
                continue
            points = [(float(row[cost]), float(row[metric])) for row in rows]
            front = pareto_front(points, higher)
            named = {row["name"]: point for row, point in zip(rows, points, strict=True)}
            title, words = f"{words_of(metric).title} over {name}", words_of(metric).heading
            charts.append(scatter_chart(title, named, unit, words, front=[points[i] for i in front]))
    return charts


def _bars(content: Mapping[str, Any]) -> list[Chart]:
    rows = content["rows"]
    times = [
        (row["name"], {kind: row[f"{kind}_ms"] for kind in ("torch", "onnxruntime") if row[f"{kind}_ms"] is not None})
        for row in rows
    ]
    macs = [(row["name"], {"MACs": row["macs"], "zeros skipped": row["effective_macs"]}) for row in rows]
    return [bar_chart("Latency, medians", times, "ms"), bar_chart("Multiply-accumulates", macs, "MACs")]

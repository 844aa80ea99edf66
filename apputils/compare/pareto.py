"""Which candidates no other one beats: the Pareto front, and its charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from apputils.report.svg import Chart, scatter_chart
from compress.analysis.metric_names import words_of

COSTS = {  # column -> (what the title says, the axis's unit)
    "torch_ms": ("latency in PyTorch", "ms"),
    "onnxruntime_ms": ("latency in onnxruntime", "ms"),
    "macs": ("MACs", "MACs of a forward pass"),
    "effective_macs": ("MACs without zeros", "MACs, those with a zero weight skipped"),
    "file_bytes": ("file size", "bytes of the ONNX file"),
}


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[int]:
    """The places of the points that none beats, cheapest first.

    A point is beaten by one that costs no more and is no worse, and is better in one of the two.

    Args:
        points: (cost, quality); a lower cost is better.
        higher_is_better: of quality.

    Example: pareto_front([(1, 30), (2, 29), (3, 31)]) is [0, 2]: the second costs more than the first and is worse.
    """
    sign = -1.0 if higher_is_better else 1.0
    order = sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1]))
    front: list[int] = []
    for i in order:
        # Neither of two equal points beats the other.
        same = bool(front) and points[i] == points[front[-1]]
        if not front or same or sign * points[i][1] < sign * points[front[-1]][1]:
            front.append(i)
    return front


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

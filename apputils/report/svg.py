"""Charts as inline SVG: lines, bars, points, a timeline. Colours are CSS variables, so that a page's theme decides.

Geometry and text. A chart is 640 units wide and scales with the page; every mark carries a `<title>`, which browsers
show when pointed at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from apputils.report.ticks import epoch_ticks, number, span, tick_labels, ticks

WIDTH, LEFT, RIGHT, TOP = 640, 62, 14, 12
COLORS = 8  # --c0 ... --c7
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart for the page.

    Attributes:
        title: above it.
        svg: the drawing.
        legend: name and CSS class of each series; empty where the chart names them itself.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


def line_chart(title: str, series: Mapping[str, Points], x_label: str, y_label: str, height: int = 240) -> Chart:
    """Curves over a common axis; points that are not numbers are left out."""
    curves = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    xs = [x for points in curves.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in curves.values() for _, y in points] or [0.0, 1.0]
    (x0, x1), y_ticks = span(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_ticks = epoch_ticks(x0, x1) if x_label == "epoch" else ticks(x0, x1, 8)
    place_x = _scale(x0, x1, LEFT, WIDTH - RIGHT)
    place_y = _scale(y_ticks[0], y_ticks[-1], height - 40, TOP)
    parts = [_grid(y_ticks, place_y), _x_axis(x_ticks, place_x, height, x_label, (x0, x1))]
    parts.append(_text(12, (TOP + height - 40) / 2, y_label, "axis-name", turned=True))
    for i, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line {color(i)}" points="{path}"/>')
        for x, y in points if len(points) <= 200 else points[-1:]:
            tip = f"{name}: {number(y)} at {number(x)}"
            spot = f'cx="{place_x(x):.1f}" cy="{place_y(y):.1f}"'
            parts.append(f'<circle class="dot {color(i)}" {spot} r="2.5"><title>{escape(tip)}</title></circle>')
    legend = tuple((name, color(i)) for i, name in enumerate(curves)) if len(curves) > 1 else ()
    return Chart(title, _svg(title, height, parts), legend)


def bar_chart(
    title: str, rows: Sequence[tuple[str, Mapping[str, float]]], unit: str, most: float | None = None
) -> Chart:
    """Horizontal bars, a group a row: (label, series -> value >= 0); `most` fixes the axis's end."""
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    thick = 14 if len(names) == 1 else 12
    step = thick * len(names) + 9
    height = TOP + step * max(len(rows), 1) + 40
    left = min(8 + 6.4 * max((len(label) for label, _ in rows), default=4), 230)
    marks = ticks(0.0, most or max((v for _, values in rows for v in values.values()), default=1.0) or 1.0, 6)
    place = _scale(0.0, marks[-1], left, WIDTH - 70)
    parts = [_x_axis(marks, place, height, unit, (0.0, marks[-1]))]
    for row, (label, values) in enumerate(rows):
        top = TOP + row * step
        parts.append(_text(left - 6, top + (step - 9) / 2 + 4, _short(label, left), "label", anchor="end", tip=label))
        for i, name in enumerate(names):
            if name not in values or not math.isfinite(values[name]):
                continue
            y, width = top + i * thick, max(place(values[name]) - left, 0.5)
            tip = escape(f"{label}, {name}: {number(values[name])} {unit}")
            box = f'x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{thick - 2}"'
            parts.append(f'<rect class="bar {color(i)}" {box} rx="2"><title>{tip}</title></rect>')
            parts.append(_text(left + width + 4, y + thick - 4, number(values[name]), "value"))
    legend = tuple((name, color(i)) for i, name in enumerate(names)) if len(names) > 1 else ()
    return Chart(title, _svg(title, height, parts), legend)


def scatter_chart(
    title: str, points: Mapping[str, tuple[float, float]], x_label: str, y_label: str, front: Points = (),
    height: int = 300, bounds: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
) -> Chart:  # fmt: skip
    """Named points, and a dashed line through those of `front`; the x axis begins at 0.

    With `bounds`, named values of x and of y, lines are drawn at them, and the points are of one colour, named when
    pointed at only.
    """
    across, up = bounds or ({}, {})
    xs = [*(x for x, _ in points.values()), *across.values()] or [1.0]
    ys = [*(y for _, y in points.values()), *up.values()] or [0.0, 1.0]
    x_ticks, y_ticks = ticks(0.0, max(xs), 7), ticks(min(ys), max(ys))
    place_x = _scale(0.0, x_ticks[-1], LEFT, WIDTH - RIGHT)
    place_y = _scale(y_ticks[0], y_ticks[-1], height - 40, TOP)
    parts = [_grid(y_ticks, place_y), _x_axis(x_ticks, place_x, height, x_label, (0.0, x_ticks[-1]))]
    parts.append(_text(12, (TOP + height - 40) / 2, y_label, "axis-name", turned=True))
    path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in front)
    parts.append(f'<polyline class="front" points="{path}"/>')
    for i, (name, (x, y)) in enumerate(points.items()):
        spot, tip = f'cx="{place_x(x):.1f}" cy="{place_y(y):.1f}"', escape(f"{name}: {number(y)} at {number(x)}")
        shade = color(i if bounds is None else 0)
        parts.append(f'<circle class="dot {shade}" {spot} r="5"><title>{tip}</title></circle>')
    for name, value in across.items():
        x = place_x(value)
        parts.append(f'<line class="front" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 40}"/>')
        right = x > WIDTH / 2
        parts.append(_text(x - 4 if right else x + 4, TOP + 10, name, "label", anchor="end" if right else "start"))
    for name, value in up.items():
        y = place_y(value)
        parts.append(f'<line class="front" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(WIDTH - RIGHT - 4, y - 4, name, "label", anchor="end"))
    legend = () if bounds is not None else tuple((name, color(i)) for i, name in enumerate(points))
    return Chart(title, _svg(title, height, parts), legend)


def timeline(title: str, rows: Sequence[tuple[str, str, Sequence[tuple[int, int]]]], epochs: int) -> Chart:
    """A row an actor: (name, kind, stretches of epochs with exclusive ends); kinds share a colour."""
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    left = min(10 + 6.4 * max((len(name) for name, _, _ in rows), default=4), 200)
    height = TOP + 26 * len(rows) + 40
    place = _scale(0, max(epochs, 1), left, WIDTH - RIGHT)
    parts = [_x_axis(epoch_ticks(0, max(epochs, 1)), place, height, "epoch", (0, max(epochs, 1)))]
    for row, (name, kind, stretches) in enumerate(rows):
        top = TOP + 26 * row
        parts.append(_text(left - 6, top + 14, _short(name, left), "label", anchor="end", tip=name))
        for first, end in stretches:
            width = max(place(end) - place(first) - 1, 2)
            shown = f"epoch {first}" if end == first + 1 else f"epochs {first} to {end - 1}"
            box = f'x="{place(first):.1f}" y="{top + 2}" width="{width:.1f}" height="17"'
            tip = escape(f"{name}: {shown}")
            parts.append(f'<rect class="bar {color(kinds.index(kind))}" {box} rx="3"><title>{tip}</title></rect>')
    return Chart(title, _svg(title, height, parts), tuple((kind, color(i)) for i, kind in enumerate(kinds)))


def color(index: int) -> str:
    """CSS classes of the series of that number: eight colours, then the same ones dashed."""
    return f"c{index % COLORS}" + (" dashed" if index % (2 * COLORS) >= COLORS else "")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _grid(marks: Sequence[float], place: Callable[[float], float]) -> str:
    ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}"'
    lines = [f'<line class="grid" {ends} y1="{place(m):.1f}" y2="{place(m):.1f}"/>' for m in marks]
    named = zip(marks, tick_labels(marks), strict=True)
    return "".join(lines + [_text(LEFT - 6, place(m) + 4, label, "tick", anchor="end") for m, label in named])


def _x_axis(
    marks: Sequence[float], place: Callable[[float], float], height: int, name: str, inside: tuple[float, float]
) -> str:
    bottom, shown = height - 40, [m for m in marks if inside[0] <= m <= inside[1]]
    lines = [f'<line class="grid" x1="{place(m):.1f}" x2="{place(m):.1f}" y1="{TOP}" y2="{bottom}"/>' for m in shown]
    named = zip(shown, tick_labels(shown), strict=True)
    labels = [_text(place(m), bottom + 16, label, "tick", anchor="middle") for m, label in named]
    middle = (place(inside[0]) + place(inside[1])) / 2
    return "".join([*lines, *labels, _text(middle, height - 6, name, "axis-name", anchor="middle")])


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", turned: bool = False, tip: str = "") -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    anchor = "middle" if turned else anchor
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{title}{escape(text)}</text>'


def _short(label: str, room: float) -> str:
    most = int((room - 8) / 6.4)
    return label if len(label) <= most else "…" + label[1 - most :]


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"

"""`report.html`: one file that needs nothing else.

The template filled in.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from apputils.report import charts
from apputils.report.details import detail_tables
from apputils.report.images import pictures_of
from apputils.report.svg import number
from compress.analysis.metric_names import words_of
from compress.analysis.workbook import shape_text
from compress.export.machine_load import load_text
from compress.export.timing import threads_text
from compress.io.files import read_text

TEMPLATES = Path(__file__).parent / "templates"


def render(content: Mapping[str, Any], results: Path) -> str:
    """The page.

    Args:
        content: what `gather` gave.
        results: the run's folder, for its drawing (`arch.svg`) and pictures (`images/`).
    """
    return (
        world()
        .get_template("page.html.j2")
        .render(
            report=content,
            schedule_yaml=yaml.safe_dump(_lists(content["schedule"]), sort_keys=False, allow_unicode=True),
            timeline=charts.schedule_chart(content),
            training=charts.training_charts(content),
            sparsity=charts.sparsity_chart(content),
            costs=charts.cost_charts(content),
            sensitivity=charts.sensitivity_charts(content),
            latency=charts.latency_chart(content),
            importance=charts.importance_charts(content),
            activations=charts.activation_chart(content),
            architecture=architecture(results / "arch.svg"),
            pictures=pictures_of(results / "images"),
            details=detail_tables(content["details"]),
        )
    )


def world(*more: Path) -> jinja2.Environment:
    """Templates with the filters, style and script that all pages share.

    Args:
        more: folders of templates beside the report's.
    """
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*more, TEMPLATES]), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    found.filters.update(number=number, whole=_whole, percent=_percent, shape=_shape, figure=_figure, short=_short)
    found.filters.update(time=_time, time_ratio=_time_ratio)
    found.filters.update(threads=threads_text, load=load_text)
    found.filters["value_of"] = lambda metric, value: words_of(metric).value(value)
    found.filters["change_of"] = lambda metric, value: words_of(metric).change(value)
    found.filters["bare_of"] = lambda metric, value: words_of(metric).bare(value)
    found.filters["heading_of"] = lambda metric: words_of(metric).heading
    found.filters["title_of"] = lambda metric: words_of(metric).title
    for name, file in (("style", "style.css"), ("script", "script.js")):
        found.globals[name] = Markup(read_text(TEMPLATES / file))
    return found


def architecture(path: Path) -> Markup | None:
    """Graphviz's SVG without its XML head, its size left to the page; None if there is none."""
    if not path.is_file():
        return None
    text = read_text(path)
    svg = text[text.index("<svg") :]
    size = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ', svg)
    width = f"{float(size[1]):.0f}" if size else "800"
    return Markup(re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg data-width="{width}"', svg, count=1))


def _whole(value: Any) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _shape(value: Sequence[int]) -> str:
    """On one line."""
    return shape_text(value).replace(" ", "\u00a0")


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _time(row: Mapping[str, Any], runtime: str) -> str:
    """`1.25 [1.2, 1.31]`."""
    return _with_quartiles(row, f"{runtime}_ms", f"{runtime}_low", f"{runtime}_high")


def _time_ratio(row: Mapping[str, Any], runtime: str) -> str:
    """`0.65 [0.57, 0.74]`."""
    return _with_quartiles(row, *(f"{runtime}_ratio{part}" for part in ("", "_low", "_high")))


def _with_quartiles(row: Mapping[str, Any], middle: str, low: str, high: str) -> str:
    return "" if row[middle] is None else f"{row[middle]:.3g} [{row[low]:.3g}, {row[high]:.3g}]"


def _short(value: Any) -> str:
    """Whole numbers in full, others with at most four digits behind the point."""
    if value is None:
        return ""
    return f"{value:,.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _lists(value: Any) -> Any:
    """Tuples as lists, which is how YAML has them."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value

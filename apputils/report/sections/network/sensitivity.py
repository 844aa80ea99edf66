"""Curves of every finished sensitivity analysis of the folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Text, absent
from apputils.report.section import Content, Section
from apputils.report.sections.run.other_data import other_data
from apputils.report.source import Source, finished_analysis
from apputils.report.svg import Chart, line_chart
from apputils.report.tables import Plot, Row, Sheet, Table
from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of

PART = r"sensitivity_\w+_part_"  # records of one machine's share of the weights


class Sensitivity(Section):
    """Each metric over the level, a curve a weight."""

    name, title = "sensitivity", "Sensitivity"
    missing = absent("Not measured", "sensitivity_analysis writes its record to this run's folder.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The analyses of whole networks, each with its file and date."""
        return {
            "sensitivity": [
                {**each, "other_data": other_data(each.get("measured_on"), each["dense"], source.summary)}
                for each in find_sensitivity(source)
            ]
        }

    def charts(self, content: Content) -> list[Chart]:
        """One chart an analysis and metric."""
        return [_chart(each, metric) for each in content["sensitivity"] for metric in each["dense"]]

    def tables(self, content: Content) -> list[Table]:
        """A sheet an analysis and metric: a row a level, a column a weight, and the curves."""
        return [_table(each, metric) for each in content["sensitivity"] for metric in each["dense"]]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """Also which files they are from."""
        shown = super().blocks(content, folder)
        if shown == [self.missing]:
            return shown
        others = [_elsewhere(each, content["measured_on"]) for each in content["sensitivity"] if each["other_data"]]
        return [*shown, *others, Text(" ".join(map(_origin, content["sensitivity"])), "quiet")]


def find_sensitivity(source: Source) -> list[dict[str, Any]]:
    """The finished analyses of whole networks, by the kind that their record names."""
    names = [path.name for path in sorted(source.folder.glob("*.json")) if path.name not in source.stale]
    found = [(name, source.json(name)) for name in names if not re.match(PART, name)]
    whole = [(name, record) for name, record in found if finished_analysis(record)]
    return [{**record, "file": name, "written": source.date(name)} for name, record in whole]


def _elsewhere(analysis: Mapping[str, Any], here: str) -> Block:
    """That curves are of other data than the page's quality."""
    return absent(
        "Other data",
        f"{analysis['file']} was measured on {analysis['other_data']}; this page's quality on {here}. Test with "
        f"--sense={analysis['sense_type']} to measure it on these.",
    )


def _origin(analysis: Mapping[str, Any]) -> str:
    facts = analysis.get("measured_on")
    return (
        f"{analysis['file']}, written {analysis['written']}{f', measured on {measured_words(facts)}' if facts else ''}."
    )


def _chart(analysis: Mapping[str, Any], metric: str) -> Chart:
    dense, words, bits = _value(analysis["dense"][metric]), words_of(metric), analysis["sense_type"] == "bits"
    start = [] if bits else [(0.0, dense)]  # nothing pruned
    curves = {
        _label(analysis, weight): sorted({*start, *_points(rows, metric)})
        for weight, rows in analysis["weights"].items()
    }
    unchanged = f"{analysis['sense_type']}; unchanged: {words.value(dense)}"
    x_label = "bits" if bits else "level (fraction of zeros asked for)"
    title = f"{words.title} when one weight is changed ({unchanged})"
    title += f", on {analysis['other_data']}" if analysis["other_data"] else ""
    return line_chart(title, curves, x_label, words.heading, height=320)


def _table(analysis: Mapping[str, Any], metric: str) -> Table:
    levels: dict[float, dict[str, Any]] = {}
    for weight, rows in analysis["weights"].items():
        for level, value in _points(rows, metric):
            levels.setdefault(level, {})[weight] = value
    weights = list(analysis["weights"])
    plot = Plot("scatter", "level", weights, f"{metric} over level", metric)
    found = [{"level": level, **{name: levels[level].get(name) for name in weights}} for level in sorted(levels)]
    facts = analysis.get("measured_on")
    measured = analysis["other_data"] or (measured_words(facts) if facts else "")
    sheet = Sheet(plots=[plot], note=f"measured on {measured}" if measured else None)
    return Table(f"sensitivity {analysis['sense_type']} {metric}", found, columns=None, sheet=sheet)


def _points(rows: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    return [(row["level"], _value(row["metrics"].get(metric))) for row in rows]


def _label(analysis: Mapping[str, Any], weight: str) -> str:
    """A curve's name: the weight, and how many others of its coupled group share it."""
    more = len(analysis.get("members", {}).get(weight, [weight])) - 1
    return f"{weight} +{more}" if more else weight


def _value(value: Any) -> float:
    """A number out of a record, in which what JSON cannot hold is text such as `nan`."""
    return float("nan") if value is None else float(value)

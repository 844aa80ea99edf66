"""The parts of a comparison, as sections of its page and workbook."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from apputils.compare.differences import OTHER_SEEDS, flat_row, how_to_read, interval_text
from apputils.compare.pareto import pareto_charts
from apputils.report.blocks import Block, Charts, Lines, Text, absent
from apputils.report.section import Content, Section
from apputils.report.sections.deployed.runtimes import Runtimes
from apputils.report.sections.run.reproduce import fact_tables
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column, percent, shape, whole
from compress.analysis.metric_names import words_of
from compress.export.machine_load import load_text
from compress.export.runtimes.base import milliseconds_text
from compress.export.timing import RUNTIMES, threads_text

COUNTS = ("parameters", "macs", "effective_macs", "bitops", "file_bytes", "file_gzip_bytes")


class Networks(Section):
    """The table of all networks, with how it was measured."""

    name, title, menu = "table", "Quality and cost", "Table"

    def tables(self, content: Content) -> list[Table]:
        """All networks; warnings and the baseline in the workbook."""
        timing = content["timing"]
        note = (
            f"times in milliseconds: medians of {timing['rounds']} rounds in turns, {threads_text(timing['threads'])}; "
            f"{load_text(timing['others_cores'])}"
        )
        plots = [Plot("bar", "name", [metric], metric) for metric in content["metrics"]]
        plots.append(Plot("bar", "name", [f"{each}_ms" for each in RUNTIMES], "Latency", "ms"))
        plots.append(Plot("bar", "name", ["macs", "effective_macs"], "MACs", "MACs"))
        sheet = Sheet("compare", ["sparsity"], note, plots, COUNTS)
        baseline = [{"metric": name, content["baseline"]: value} for name, value in content["baseline_quality"].items()]
        return [
            Table("comparison", content["rows"], _columns(content), sheet),
            Table("warnings", content["warnings"], columns=None),
            Table("baseline", baseline, columns=None),
        ]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The table, how it was measured, warnings and notes."""
        notes = [f"{row['name']}: {row['text']}" for row in content["warnings"]] + content["notes"]
        return [self.tables(content)[0], Text(_how(content), "quiet"), *(Text(note, "absent") for note in notes)]


class Differences(Section):
    """Whether the networks differ from the first one in quality."""

    name, title = "differences", "Is it a difference?"

    def tables(self, content: Content) -> list[Table]:
        """A row for each metric of each network."""
        columns = [
            column("name", "network"),
            column("metric", text=lambda metric: words_of(metric).heading),
            column("finding", "than the first"),
            Column("interval", lambda row: (row["mean"], interval_text(row))),
            column("seeds"),
            column("images", text=whole),
        ]
        rows = [flat_row(row) for row in content["differences"]]
        if any("other_seeds" in row for row in rows):
            columns.append(column("other_seeds", OTHER_SEEDS))
        return [Table("differences", rows, columns)]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """How the intervals are meant, then the table."""
        rows = content["differences"]
        if not rows:
            return [absent("Not known", "it takes two networks whose single images are measured.")]
        return [Text(f"The first is {rows[0]['than']}. {how_to_read(rows)}.", "quiet"), *self.tables(content)]


class Pareto(Section):
    """Each metric over each cost, the front as a line."""

    name, title = "pareto", "Quality over cost"

    def charts(self, content: Content) -> list[Chart]:
        """Only costs in which the networks differ."""
        return pareto_charts(content)

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """What the line is, then the charts."""
        text = (
            "The dashed line joins the networks that no other one beats in both. Differences smaller than the "
            "quartiles of the time mean nothing."
        )
        return [Text(text, "quiet"), Charts(self.charts(content))]


class Cost(Section):
    """Times and MACs as bars."""

    name, title = "bars", "Cost"

    def charts(self, content: Content) -> list[Chart]:
        """One chart for times, one for MACs."""
        rows = content["rows"]
        times = [
            (row["name"], {each: row[f"{each}_ms"] for each in RUNTIMES if row[f"{each}_ms"] is not None})
            for row in rows
        ]
        macs = [(row["name"], {"MACs": row["macs"], "zeros skipped": row["effective_macs"]}) for row in rows]
        return [bar_chart("Latency, medians", times, "ms"), bar_chart("Multiply-accumulates", macs, "MACs")]


class Reproduce(Section):
    """The command, and where it ran."""

    name, title = "reproduce", "Reproduce"

    def tables(self, content: Content) -> list[Table]:
        """Facts."""
        facts = {**content["timing"], **content["environment"], "command": content["command"]}
        return fact_tables(content["environment"], facts)

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The command, then where."""
        return [Lines(content["command"]), *super().blocks(content, folder)]


def _how(content: Content) -> str:
    """How quality and time were measured."""
    quality = (f"{words_of(name).title} {words_of(name).value(v)}" for name, v in content["baseline_quality"].items())
    timing = content["timing"]
    return (
        f"{content['baseline']} on the same data: {', '.join(quality)}. One forward pass of an input of "
        f"{shape(content['input_shapes'][0])}. Times are medians of {timing['rounds']} rounds in which all networks "
        f"took turns after warming up, {threads_text(timing['threads'])}, PyTorch on {timing['device']}, onnxruntime "
        'on the CPU; "of the first" is the median over rounds of the time divided by the first network\'s in the '
        f"same round. While timing, {load_text(timing['others_cores'])}. The file is the ONNX file: integers if the "
        "network is quantized."
    )


def _columns(content: Content) -> list[Column]:
    """Of the page's table."""
    groups = any(row["seeds"] for row in content["rows"])
    return [
        column("name", "network"),
        column("architecture"),
        *(each for name in content["metrics"] for each in _metric_columns(name, groups)),
        *([column("seeds")] if groups else []),
        column("parameters", text=whole),
        column("macs", "MACs", whole),
        column("sparsity", "zeros", percent),
        *(each for runtime in RUNTIMES for each in _time_columns(runtime)),
        column("file_bytes", "file, bytes", whole),
        column("file_gzip_bytes", "file packed", whole),
        column("effective_macs", "MACs, zeros skipped", whole),
        column("bitops", "BitOps", whole),
        column("schedule"),
        column("goals"),
    ]


def _metric_columns(metric: str, groups: bool) -> list[Column]:
    """Value and, where there are groups of seeds, the standard deviation."""
    text = _shown(words_of(metric).bare)
    spread = [column(f"{metric}_deviation", "deviation", text)] if groups else []
    return [column(metric, words_of(metric).heading, text), *spread]


def _time_columns(runtime: str) -> list[Column]:
    """Median, quartiles, ratio."""

    def quartiles(row: Row) -> Cell:
        low, high = row[f"{runtime}_low"], row[f"{runtime}_high"]
        return low, "" if low is None else f"{milliseconds_text(low, 4)} to {milliseconds_text(high, 4)}"

    return [
        column(f"{runtime}_ms", f"{runtime}, ms", _shown(partial(milliseconds_text, digits=4))),
        Column("quartiles", quartiles),
        column(f"{runtime}_ratio", "of the first", _shown("{:.2f}x".format)),
    ]


def _shown(text: Callable[[float], str]) -> Callable[[float | None], str]:
    """Nothing where nothing was measured."""
    return lambda value: "" if value is None else text(value)


SECTIONS: tuple[Section, ...] = (Networks(), Differences(), Pareto(), Cost(), Runtimes(), Reproduce())

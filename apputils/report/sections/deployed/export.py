"""Exported files: parity with the network, and latency beside the dense network's. From export.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Charts, Heading, Text, Tile, absent
from apputils.report.section import Content, Section
from apputils.report.sections.run.other_data import other_data
from apputils.report.source import EXPORT, Source
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column, shape, whole
from compress.export.machine_load import load_text
from compress.export.timing import RUNTIMES, threads_text

COMMON = {"mode": "pt2", "compared_with": "the network", "warnings": [], "difference": {}}  # where a file lacks them


class Export(Section):
    """One table of files, one of times."""

    name, title, menu = "export", "Export and latency", "Export"
    missing = absent("Not exported", "transform_to_onnx, written to export.json, shows parity and latency here.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The files, each with what was found out about it; why there are none; times."""
        record = {} if EXPORT in source.stale else source.json(EXPORT) or {}
        files = record.get("files", {})
        date = source.date(EXPORT) if files else ""
        return {
            "export": [{**COMMON, **each, "written": date} for each in files.values()],
            "export_other_data": other_data(record.get("measured_on"), record.get("quality") or {}, source.summary),
            "export_error": record.get("error"),
            "latency": record.get("latency"),
        }

    def tiles(self, content: Content) -> list[Tile]:
        """The time of the last file measured, as a fraction of the dense network's."""
        rows = (content["latency"] or {}).get("rows", [])
        return [_tile(row) for row in rows[-1:]]

    def charts(self, content: Content) -> list[Chart]:
        """Median latency of this network and its files beside the dense network's."""
        if not content["latency"]:
            return []
        rows = [
            (row["name"], {each: row[f"{each}_ms"] for each in RUNTIMES if row[f"{each}_ms"] is not None})
            for row in content["latency"]["rows"]
        ]
        return [bar_chart(f"Latency, {threads_text(content['latency']['threads'])}", rows, "ms")]

    def tables(self, content: Content) -> list[Table]:
        """Files, what is to be known of their layers (workbook), times."""
        layers = [{"file": each["file"], **note} for each in content["export"] for note in each.get("weights") or []]
        rows = [_flat({name: value for name, value in each.items() if name != "weights"}) for each in content["export"]]
        if content["export_error"]:
            rows.append({"not exported": content["export_error"]})
        other = content["export_other_data"]
        sheet = Sheet(note=f"quality measured on {other}" if other else None)
        return [
            Table("export", content["export"], FILES, sheet=None),
            Table("export", rows, columns=None, sheet=sheet),
            Table("export layers", layers, columns=None),
            *([_times(content["latency"])] if content["latency"] else []),
        ]

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The files and their warnings, then the times."""
        files, _, _, *times = self.tables(content)
        warnings = [Text(warning, "absent") for each in content["export"] for warning in each["warnings"] or []]
        shown: list[Block] = [files, *warnings] if files.rows else []
        if content["export_error"]:
            shown.append(absent("Not exported", content["export_error"]))
        if content["export_other_data"]:
            words = f"the files' quality in {EXPORT} was measured on {content['export_other_data']}."
            shown.append(absent("Other data", words))
        shown = shown or [self.missing]
        if not times:
            return shown
        heading = Heading("Latency, beside the dense network's")
        return [*shown, heading, _how(content["latency"]), *times, Charts(self.charts(content))]


def _how(latency: Mapping[str, Any]) -> Text:
    """How times were taken."""
    return Text(
        f"Medians of {latency['rounds']} rounds in turns, {threads_text(latency['threads'])}, inputs "
        f"{', '.join(map(shape, latency['input_shapes']))}; quartiles in brackets; "
        f"{load_text(latency['others_cores'])}. The dense network has the shapes from before thinning and no zeros. "
        "Zeros alone make neither runtime faster. In PyTorch a quantized network rounds in float, so its time there "
        "tells nothing about integers.",
        "quiet",
    )


def _times(latency: Mapping[str, Any]) -> Table:
    facts = {name: value for name, value in latency.items() if name != "rows"}
    note = "(in milliseconds, medians over rounds in turns; ratio: to the dense network's) " + _text(facts)
    plot = Plot("bar", "name", [f"{each}_ms" for each in RUNTIMES], "Latency, beside the dense one's", "ms")
    return Table("latency", latency["rows"], TIMES, Sheet(note=note, plots=[plot]))


def _tile(row: Row) -> Tile:
    ratio, _, quartiles = _quartiles(row, "onnxruntime_ratio").partition(" ")
    quartiles += " (quartiles), " if ratio else ""
    return Tile(ratio, "of the dense network's time", [f"{quartiles}{row['name']} in onnxruntime"])


def _quartiles(row: Row, key: str) -> str:
    """`0.65 [0.57, 0.74]` of a time or ratio; empty if it was not measured."""
    stem = key.removesuffix("_ms")
    return "" if row[key] is None else f"{row[key]:.3g} [{row[stem + '_low']:.3g}, {row[stem + '_high']:.3g}]"


def _time_column(key: str, head: str) -> Column:
    return Column(head, lambda row: (row[key], _quartiles(row, key)))


def _difference(row: Row) -> Cell:
    gap = row["difference"] or {}
    return gap.get("max"), "max {max:.2e}, mean {mean:.2e} of {largest:.3g}".format(**gap) if gap else ""


def _flat(row: Row, before: str = "") -> dict[str, Any]:
    """What fits cells: nested values as `name.key`, lists as text."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = _text(value) if isinstance(value, list) else value
    return found


def _text(value: Any) -> str:
    """Plain data as a reader takes it: `a; b`, `name: value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    return "; ".join(map(_text, value)) if isinstance(value, list) else str(value)


FILES = (
    column("file"), column("mode"), column("bytes", text=whole), column("compared_with", "compared with"),
    Column("difference", _difference), column("written"),
)  # fmt: skip
TIMES = (
    column("name", "network"),
    _time_column("torch_ms", "PyTorch, ms"), _time_column("torch_ratio", "of the dense one's"),
    _time_column("onnxruntime_ms", "onnxruntime, ms"), _time_column("onnxruntime_ratio", "of the dense one's"),
)  # fmt: skip

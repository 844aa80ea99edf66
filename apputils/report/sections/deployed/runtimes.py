"""The network in other runtimes: parity, quality, layers in integers and time. From runtimes.json."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apputils.report.blocks import Block, Charts, Heading, Text, absent
from apputils.report.section import Content, Section
from apputils.report.source import RUNTIMES, Source
from apputils.report.svg import Chart, bar_chart
from apputils.report.tables import Cell, Column, Plot, Row, Sheet, Table, column, shape, whole
from compress.analysis.metric_names import words_of
from compress.export.machine_load import load_text
from compress.export.runtimes.text import crops_text, device_name, layers_text, precision_text, time_text, warnings_of
from compress.export.timing import threads_text


class Runtimes(Section):
    """One row a runtime, network and precision."""

    name, title, menu = "runtimes", "Runtimes", "Runtimes"
    missing = absent("Not measured", "`python test.py --runtimes all` measures the network in every runtime.")

    def collect(self, source: Source) -> dict[str, Any]:
        """The table as test.py --runtimes wrote it."""
        return {
            "runtimes": None if RUNTIMES in source.stale else source.json(RUNTIMES),
            "devices": source.devices(),
        }

    def tables(self, content: Content) -> list[Table]:
        """The rows; in the workbook with every figure."""
        found, devices = content.get("runtimes"), content.get("devices") or []
        rows = [{"device": device_name(each), **row} for each in devices for row in each["rows"]]
        columns = [*([column("device")] if len(devices) > 1 else []), *ON_DEVICE]
        there = [Table("device", rows, columns, Sheet(note="; ".join(map(_machine, devices))))] if devices else []
        if not found or not found["rows"]:
            return there
        metrics = list(dict.fromkeys(name for row in found["rows"] for name in row["quality"]))
        sheet = Sheet(note=_how(found), plots=[Plot("bar", "runtime", ["ms"], "Time in each runtime", "ms")])
        return [
            Table("runtimes", found["rows"], _columns(metrics, found["rows"][0]["network"]), sheet=None),
            Table("runtimes", [_flat(row) for row in found["rows"]], columns=None, sheet=sheet),
            *there,
        ]

    def charts(self, content: Content) -> list[Chart]:
        """Medians of every row."""
        rows = [row for row in (content.get("runtimes") or {}).get("rows", []) if row["ms"] is not None]
        bars = [(f"{row['runtime']}, {row['network']}, {precision_text(row)}", {"ms": row["ms"]}) for row in rows]
        return [bar_chart("Time in each runtime", bars, "ms")] if bars else []

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """How, the table, warnings, the chart."""
        found = content.get("runtimes")
        devices = content.get("devices") or []
        there: list[Block] = []
        if devices:
            head = Heading("On the device" if len(devices) == 1 else "On the devices")
            there = [head, *(Text(_machine(each), "quiet") for each in devices), *self.tables(content)[-1:]]
        if not found:
            return there if there else [self.missing]
        warnings = [Text(each, "absent") for each in warnings_of(found)]
        return [Text(_how(found), "quiet"), *self.tables(content)[:1], *warnings, Charts(self.charts(content)), *there]


def _machine(device: Mapping[str, Any]) -> str:
    """Where and how it was measured."""
    about, how = device["machine"], device["how"]
    heat = f", {max(about['temperatures']):.0f} °C" if about.get("temperatures") else ""
    return f"{device_name(device)}, {about['system']}{heat}, {about['date']}; {how['rounds']} rounds in turns"


def _how(table: Mapping[str, Any]) -> str:
    how = table["how"]
    if not how.get("rounds"):
        return "Nothing could be timed."
    return (
        f"Medians of {how['rounds']} rounds in turns, one process a runtime, {threads_text(how['threads'])} each, "
        f"inputs {', '.join(map(shape, how['input_shapes']))}; quartiles in brackets; "
        f"{load_text(how['others_cores'])}. The difference is that to PyTorch on real inputs. A quantized layer that a "
        "runtime computes in float is named."
    )


def _columns(metrics: Sequence[str], first: str) -> list[Column]:
    return [
        column("runtime"), column("network"), Column("precision", lambda row: (precision_text(row),) * 2),
        column("bytes", text=whole), Column("difference, max", _number("max", "{:.2e}")),
        Column("mean", _number("mean", "{:.2e}")), *(_quality(name) for name in metrics),
        Column("ms", lambda row: (row["ms"], time_text(row) if row["ms"] is not None else "")),
        Column(f"of {first}, same runtime", _number("ratio", "{:.2f}x")),
        Column(f"of {first}, onnxruntime", _number("ratio_onnxruntime", "{:.2f}x")),
        Column("layers in integers", lambda row: (row["integer"], layers_text(row))),
    ]  # fmt: skip


def _quality(metric: str) -> Column:
    def cell(row: Row) -> Cell:
        value = row["quality"].get(metric)
        return value, "" if value is None else words_of(metric).bare(value) + crops_text(row)

    return Column(words_of(metric).heading, cell)


def _number(key: str, form: str) -> Callable[[Row], Cell]:
    return lambda row: (row[key], "" if row[key] is None else form.format(row[key]))


def _layers_there(row: Row) -> str:
    return "" if row["error"] else layers_text({**row, "layers": len(row["layers"])})


def _flat(row: Row) -> dict[str, Any]:
    plain = {key: "; ".join(value) if isinstance(value, list) else value for key, value in row.items()}
    quality: Any = plain.pop("quality")
    return {**plain, **quality}


ON_DEVICE = (
    column("runtime"), column("network"), Column("precision", lambda row: (precision_text(row),) * 2),
    column("bytes", text=whole), Column("difference, max", _number("max", "{:.2e}")),
    Column("ms", lambda row: (row["ms"], row["error"] or time_text(row))),
    Column("of dense, same runtime", lambda row: (found := row.get("ratio"), f"{found:.2f}x" if found else "")),
    Column("layers in integers", lambda row: (row.get("integer"), _layers_there(row))),
)  # fmt: skip

"""A table of runtimes in words: for the screen, for reports, for what is not as one expects.

`table_text`, `precision_text`, `layers_text`, `warnings_of`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from compress.errors import some
from compress.export.machine_load import load_text
from compress.export.runtimes.base import milliseconds_text
from compress.export.timing import threads_text

Row = Mapping[str, Any]


def table_text(table: Mapping[str, Any]) -> str:
    """The rows of `RuntimeTable.to_dict()`, and how they were measured."""
    rows, how = table["rows"], table["how"]
    metrics = list(dict.fromkeys(name for row in rows for name in row["quality"]))
    head = ["runtime", "network", "precision", "bytes", "max diff", "mean diff", *metrics]
    first = rows[0]["network"] if rows else ""
    head += ["ms [quartiles]", f"of {first}, here", f"of {first}, onnxruntime", "in integers"]
    lines = [_line(row, metrics) for row in rows]
    text = [tabulate(lines, head, disable_numparse=True)] if lines else []
    text += fastest_of(rows)
    if how.get("rounds"):
        shapes = ", ".join(str(tuple(each)) for each in how["input_shapes"])
        text.append(
            f"{how['rounds']} rounds in turns, one process a runtime, {threads_text(how['threads'])} each, inputs "
            f"{shapes}; {'processor time' if how.get('processor') else load_text(how['others_cores'])}"
        )
    return "\n".join(text)


def fastest_of(rows: Sequence[Row]) -> list[str]:
    """For each network the fastest row that is right, and those whose quartiles meet its own: no difference shown."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        right = [row for row in rows if row["network"] == network and row["ms"] and not row.get("wrong")]
        timed = sorted(right, key=lambda row: row["ms"])
        if len(timed) < 2:
            continue
        first, *others = timed
        near = [_way_text(row) for row in others if row["low"] <= first["high"]]
        said = f"; no difference shown to {', '.join(near)}" if near else ""
        found.append(f"fastest for {network}: {_way_text(first)}, {milliseconds_text(first['ms'])} ms{said}")
    return found


def _way_text(row: Row) -> str:
    return f"{row['runtime']} ({precision_text(row)})"


def warnings_of(table: Mapping[str, Any]) -> list[str]:
    """What failed, is missing, is wrong, runs in float though quantized, or cannot be held, a sentence each."""
    found = [
        f"{row['runtime']}, {row['network']}: {row['error'].removeprefix(row['runtime'] + ': ')}"
        for row in table["rows"] if row["error"]
    ]  # fmt: skip
    found += [each["reason"] for each in table["missing"]]
    for row in table["rows"]:
        where = f"{row['runtime']}, {row['network']}, {precision_text(row)}"
        if row.get("wrong"):
            found.append(f"{where}: {row['wrong']}")
        if row["float_layers"]:
            found.append(
                f"{where}: {len(row['float_layers'])} of {row['layers']} quantized layers run in float: "
                f"{some(row['float_layers'])}"
            )
        found += [f"{where}: {note}" for note in row["notes"]]
    return list(dict.fromkeys(found))


def precision_text(row: Row) -> str:
    """`float32`; `int8, rest bfloat16` of a quantized network."""
    precision = row["precision"] or "-"
    return f"int8, rest {precision}" if row["quantized"] and row["precision"] else precision


def device_name(device: Mapping[str, Any]) -> str:
    """`board, Cortex, 4 cores, 2 threads`: what tells measurements of a bundle's `measure.py` apart."""
    about = device["machine"]
    parts = [about.get("name"), about["cpu"] or about["machine"], f"{about['cores']} cores"]
    return ", ".join([*map(str, filter(None, parts)), threads_text(device["how"]["threads"])])


def layers_text(row: Row) -> str:
    """`7 of 8`; `-` of a float network, `not told` where the runtime does not say."""
    if not row["layers"]:
        return "-"
    return "not told" if row["integer"] is None else f"{row['integer']} of {row['layers']}"


def crops_text(row: Row) -> str:
    """What stands behind a metric that was measured on parts of the images."""
    return " (cropped)" if row.get("quality_on") else ""


def time_text(row: Row) -> str:
    """`1.25 [1.2, 1.31]`, with `(wrong)` behind it where the results are; `-` where it was not timed."""
    if row["ms"] is None:
        return "-"
    middle, low, high = (milliseconds_text(row[key]) for key in ("ms", "low", "high"))
    return f"{middle} [{low}, {high}]" + (" (wrong)" if row.get("wrong") else "")


def _line(row: Row, metrics: Sequence[str]) -> list[str]:
    if row["error"]:
        return [row["runtime"], row["network"], "not run"]
    wrong = " (wrong)" if row.get("wrong") else ""
    return [
        row["runtime"],
        row["network"],
        precision_text(row),
        f"{row['bytes']:,}",
        *("-" if row[key] is None else f"{row[key]:.2g}{wrong}" for key in ("max", "mean")),
        *(f"{row['quality'][name]:.4f}{crops_text(row)}" if name in row["quality"] else "-" for name in metrics),
        time_text(row),
        *("-" if row[key] is None else f"{row[key]:.2f}x" for key in ("ratio", "ratio_onnxruntime")),
        layers_text(row),
    ]

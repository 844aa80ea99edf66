"""`report.xlsx`: the report's tables with native charts.

Which sheets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from apputils.report.charts import MOST_GROUPS, cost_by_layer, importance_points, importance_title
from apputils.report.details import detail_tables
from compress.analysis.sparsity.table import GRANULARITIES
from compress.analysis.workbook import Workbook
from compress.export.timing import RUNTIMES


def write_book(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the workbook; a part that the run lacks has no sheet.

    Raises:
        UserError: it cannot be written.
    """
    book = Workbook()
    quality = [
        {"metric": metric, "of": of, "value": value, "gain of the model": values["model"] - value}
        for metric, values in content["quality"].items()
        for of, value in values.items()
    ]
    book.add_table("quality", pd.DataFrame(quality), note=f"measured on {content['measured_on']}")
    _table(
        book,
        "warnings",
        [{"epoch": w["epoch"], "warning": w["text"], "times": w["count"]} for w in content["warnings"]],
    )
    for table in detail_tables(content["details"]):
        book.add_table(table.name, pd.DataFrame(table.rows, columns=table.heads))
    sizes = book.add_table("size", pd.DataFrame(content["sizes"]).convert_dtypes())  # a gap leaves counts whole
    book.add_chart(sizes, "bar", x="what", series=["dense", "now"], title="Dense and now", y_title="count")
    _training(book, content["history"])
    policies = [{**p, "epochs": ", ".join(map(str, p["epochs"]))} for p in content["policies"]]
    _table(book, "schedule", policies)
    if content["sparsity"]:
        sheet = book.add_table("sparsity", pd.DataFrame(content["sparsity"]["weights"]), percent=GRANULARITIES)
        book.add_chart(sheet, "bar", x="weight", series=["fine", "filters"], title="Zeros", y_title="fraction")
    if content["macs"]:
        lost = content["macs"].get("left_out")
        note = f"not counted: {', '.join(lost)}" if lost else None
        sheet = book.add_table("macs", pd.DataFrame(content["macs"]["layers"]), percent=["share"], note=note)
        book.add_chart(sheet, "bar", x="layer", series=["macs", "effective_macs"], title="MACs", y_title="MACs")
    _table(book, "macs dense", content["dense"]["layers"])
    _by_layer(book, content)
    for analysis in content["sensitivity"]:
        _sensitivity(book, analysis)
    if content["activations"]:
        sheet = book.add_table("activations", pd.DataFrame(content["activations"]), percent=["sparsity"])
        book.add_chart(sheet, "bar", x="layer", series=["sparsity"], title="Zeros in outputs", y_title="fraction")
    _export(book, content)
    removed = [{**row, "removed": ", ".join(map(str, row["removed"]))} for row in content["removed"]]
    _table(book, "removed", removed)
    reasons = [
        {**row, "removed": ", ".join(map(str, row["removed"])), "scores": ", ".join(f"{s:.6g}" for s in row["scores"])}
        for row in content["reasons"]
    ]
    _table(book, "why removed", reasons)
    for row in content["reasons"][:MOST_GROUPS]:
        sheet = book.add_table(f"why {row['group']}", pd.DataFrame(importance_points(row)))
        kinds = ["removed", "kept", "threshold"]
        book.add_chart(sheet, "scatter", x="place", series=kinds, title=importance_title(row), y_title="importance")
    facts = {"run": content["run"], "seed": content["seed"], **content["commands"], **content["environment"]}
    book.add_table("reproduce", pd.DataFrame([{"fact": name, "value": value} for name, value in facts.items()]))
    book.save(path)


def _table(book: Workbook, title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        book.add_table(title, pd.DataFrame(rows))


def _by_layer(book: Workbook, content: Mapping[str, Any]) -> None:
    """Dense against now."""
    rows = cost_by_layer(content)
    if rows:
        sheet = book.add_table("by layer", pd.DataFrame(rows).convert_dtypes())  # a gap leaves counts whole
        for what, more in (("MACs", ["MACs now, zeros skipped"]), ("parameters", [])):
            series = [f"dense {what}", f"{what} now", *more]
            book.add_chart(sheet, "bar", x="layer", series=series, title=f"{what}, dense and now", y_title=what)


def _export(book: Workbook, content: Mapping[str, Any]) -> None:
    """Exported files, what is to be known of their layers, and how long they take."""
    layers = [{"file": each["file"], **note} for each in content["export"] for note in each.get("weights") or []]
    rows = [_flat({name: value for name, value in each.items() if name != "weights"}) for each in content["export"]]
    if content["export_error"]:
        rows.append({"not exported": content["export_error"]})
    _table(book, "export", rows)
    _table(book, "export layers", layers)
    if content["latency"]:
        facts = {name: value for name, value in content["latency"].items() if name != "rows"}
        note = "(in milliseconds, medians over rounds in turns; ratio: to the dense network's) " + _text(facts)
        sheet = book.add_table("latency", pd.DataFrame(content["latency"]["rows"]), note=note)
        series = [f"{runtime}_ms" for runtime in RUNTIMES]
        book.add_chart(sheet, "bar", x="name", series=series, title="Latency, beside the dense one's", y_title="ms")


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
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


def _training(book: Workbook, history: list[dict[str, Any]]) -> None:
    if not history:
        return
    table = pd.DataFrame(history)
    sheet = book.add_table("training", table)
    for name in table.columns:
        if name != "epoch" and "/" not in name:
            book.add_chart(sheet, "line", x="epoch", series=[name], title=name)


def _sensitivity(book: Workbook, analysis: Mapping[str, Any]) -> None:
    """A sheet a metric: a row a level, a column a weight, and the curves."""
    for metric in analysis["dense"]:
        columns = {
            weight: {row["level"]: row["metrics"].get(metric) for row in rows}
            for weight, rows in analysis["weights"].items()
        }
        table = pd.DataFrame(columns).apply(pd.to_numeric, errors="coerce").sort_index().rename_axis("level")
        sheet = book.add_table(f"sensitivity {analysis['sense_type']} {metric}", table.reset_index())
        book.add_chart(sheet, "scatter", x="level", series=list(columns), title=f"{metric} over level", y_title=metric)

"""`report.xlsx`: the report's tables with native charts.

Here: which sheets. Not here: how sheets look (apputils/workbook.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from apputils.report.details import detail_tables
from apputils.sparsity_table import GRANULARITIES
from apputils.workbook import Workbook


def write_book(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the workbook; a part that the run lacks has no sheet.

    Raises:
        UserError: it cannot be written.
    """
    book = Workbook()
    quality = [
        {"metric": metric, "of": of, "value": value}
        for metric, values in content["quality"].items()
        for of, value in values.items()
    ]
    book.add_table("quality", pd.DataFrame(quality))
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
        sheet = book.add_table("macs", pd.DataFrame(content["macs"]["layers"]), percent=["share"])
        book.add_chart(sheet, "bar", x="layer", series=["macs", "effective_macs"], title="MACs", y_title="MACs")
    _table(book, "macs dense", content["dense"]["layers"])
    for analysis in content["sensitivity"]:
        _sensitivity(book, analysis)
    _table(book, "activations", content["activations"] or [])
    _table(book, "export", [_scalars(each) for each in content["export"]])
    removed = [{**row, "removed": ", ".join(map(str, row["removed"]))} for row in content["removed"]]
    _table(book, "removed", removed)
    reasons = [
        {**row, "removed": ", ".join(map(str, row["removed"])), "scores": ", ".join(f"{s:.6g}" for s in row["scores"])}
        for row in content["reasons"]
    ]
    _table(book, "why removed", reasons)
    facts = {"run": content["run"], "seed": content["seed"], **content["commands"], **content["environment"]}
    book.add_table("reproduce", pd.DataFrame([{"fact": name, "value": value} for name, value in facts.items()]))
    book.save(path)


def _table(book: Workbook, title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        book.add_table(title, pd.DataFrame(rows))


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """What fits a cell, with one level of nested numbers as `name.key`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found.update({f"{name}.{key}": each for key, each in value.items() if isinstance(each, int | float | str)})
        elif not isinstance(value, list):
            found[name] = value
    return found


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

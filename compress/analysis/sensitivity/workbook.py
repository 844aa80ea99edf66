"""The analysis as an Excel workbook.

Which sheets there are. Sheets: `values`, one row a weight and level; one named after each metric, a column a weight;
`charts`; `suggestion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compress.analysis.sensitivity.suggestion import Tolerated, metrics_of
from compress.analysis.workbook import Workbook

if TYPE_CHECKING:
    import pandas as pd

MOST_CURVES = 30  # in a chart, the most sensitive weights; more cannot be told apart
AXES = {
    "element": "fraction of zeros",
    "filter": "fraction of filters pruned",
    "channel": "fraction of input channels pruned",
    "bits": "bits of the weight (32: not quantized)",
}


def write_workbook(
    path: Path,
    table: pd.DataFrame,
    suggestion: pd.DataFrame,
    goal: Tolerated,
    together: Mapping[str, float],
    sense_type: str,
    measured: str = "",
) -> None:
    """Writes the workbook, whole or not at all; `measured` says on which data."""
    book, percent = Workbook(), [] if sense_type == "bits" else ["level"]
    book.add_table("values", table, percent=[*percent, "zeros"])
    curves = _most_sensitive(table, goal)
    wide = {metric: _wide(table, metric) for metric in metrics_of(table)}
    sheets = {metric: book.add_table(metric, frame, percent=percent) for metric, frame in wide.items()}
    charts = book.add_sheet("charts")
    for place, (metric, sheet) in enumerate(sheets.items()):
        shown = [name for name in wide[metric].columns[1:] if name in curves]
        more = "" if len(shown) == wide[metric].shape[1] - 1 else f", the {len(shown)} most sensitive weights"
        book.add_chart(
            sheet, "line", x="level", series=shown, title=f"{metric}, one weight changed at a time{more}",
            y_title=metric, x_title=AXES[sense_type], on=charts, anchor=f"A{1 + 24 * place}",
        )  # fmt: skip
    note = "; ".join(filter(None, (suggestion_note(goal, together), measured)))
    book.add_table("suggestion", suggestion, percent=[*percent, "zeros"], note=note)
    book.save(path)


def suggestion_note(goal: Tolerated, together: Mapping[str, float]) -> str:
    """What the suggestion means, and what all of it at once costs."""
    value = together[goal.metric]
    loss = goal.loss(value)
    than = f"{abs(loss):.4g} {'better' if loss < 0 else 'worse'}"
    return (
        f"each weight alone: {goal}; all of these levels at once, without training: {goal.metric} {value:.6g} ({than})"
    )


def _wide(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows are levels in the order of growing harm, columns are weights; empty where nothing was measured."""
    wide = table.pivot(index="level", columns="weight", values=metric)[list(dict.fromkeys(table["weight"]))]
    dense_first = table["level"].iloc[0] == wide.index.min()
    return wide.sort_index(ascending=dense_first).rename_axis(columns=None).reset_index()


def _most_sensitive(table: pd.DataFrame, goal: Tolerated) -> set[str]:
    losses = table[goal.metric].map(goal.loss).groupby(table["weight"]).mean()
    return set(losses.nlargest(MOST_CURVES).index)

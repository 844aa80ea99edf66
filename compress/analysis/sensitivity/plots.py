"""The analysis as an image: curves of each metric, and a heat map of the loss.

`draw`. Curves are coloured from the first weight to the last; the heat map tells them apart also when there are many.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.analysis.metric_names import words_of
from compress.analysis.sensitivity.suggestion import MEMBERS, Tolerated, metrics_of
from compress.analysis.sensitivity.workbook import AXES
from compress.io.files import replacing
from compress.io.optional import on_use

if TYPE_CHECKING:
    import matplotlib
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    matplotlib = on_use("matplotlib")

MOST_NAMES = 24  # in a legend


def draw(path: Path, table: pd.DataFrame, goal: Tolerated, sense_type: str, measured: str = "") -> None:
    """Writes the PNG; `measured` says on which data."""
    weights, metrics = list(dict.fromkeys(table["weight"])), metrics_of(table)
    table = _with_counts(table)
    height = max(4.5, 1.6 + 0.24 * len(weights))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(metrics) + 8, height), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(metrics) + 1, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=False):
        _curves(axis, table, metric, sense_type)
    if goal.metric in metrics:
        limit = goal.dense - goal.tolerance if goal.higher_is_better else goal.dense + goal.tolerance
        axes[metrics.index(goal.metric)].axhline(limit, color="0.3", linestyle="--", linewidth=1)
    if len(weights) <= MOST_NAMES:
        axes[0].legend(fontsize=7, loc="best")
    _heat_map(figure, axes[-1], table, goal, sense_type)
    if measured:
        figure.supxlabel(measured, fontsize="small", color="0.4")
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _with_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Weights that share their curve with others show how many: `layer1.0.conv2.weight +3`."""
    if MEMBERS not in table:
        return table
    more = table[MEMBERS].str.count(", ")
    labels = table["weight"].where(more == 0, table["weight"] + " +" + more.astype(str))
    return table.assign(weight=labels)


def _curves(axis: Axes, table: pd.DataFrame, metric: str, sense_type: str) -> None:
    groups = list(table.groupby("weight", sort=False))
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(groups)))
    for (name, own), colour in zip(groups, colours, strict=True):
        axis.plot(_places(own["level"], sense_type), own[metric], color=colour, marker=".", linewidth=1.2, label=name)
    if sense_type == "bits":
        levels = sorted(set(table["level"]), reverse=True)
        axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    words = words_of(metric)
    axis.set(xlabel=AXES[sense_type], ylabel=words.heading, title=f"{words.title}, one weight changed at a time")
    axis.grid(alpha=0.3)


def _places(levels: pd.Series, sense_type: str) -> list[float]:
    """Bits are set out evenly: 32 would push all others to the edge."""
    return list(range(len(levels))) if sense_type == "bits" else list(levels)


def _heat_map(figure: Figure, axis: Axes, table: pd.DataFrame, goal: Tolerated, sense_type: str) -> None:
    losses = table.assign(loss=table[goal.metric].map(goal.loss)).pivot(index="weight", columns="level", values="loss")
    weights = list(dict.fromkeys(table["weight"]))
    levels = sorted(losses.columns, reverse=sense_type == "bits")[1:]
    grid = losses.loc[weights, levels].to_numpy(dtype=float)
    finite = np.where(np.isfinite(grid), grid, np.nan)
    top = max(goal.tolerance, float(np.nanmax(finite, initial=0.0)), 1e-12)
    cut = np.clip(np.where(np.isposinf(grid), top, grid), 0, top)
    image = axis.imshow(np.ma.masked_invalid(cut), aspect="auto", cmap="magma_r", norm=_norm(goal.tolerance, top))
    axis.set_yticks(range(len(weights)), weights, fontsize=7)
    axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels], fontsize=7, rotation=90)
    axis.set(
        xlabel=AXES[sense_type],
        title=f"loss of {words_of(goal.metric).heading}; marked: more than {goal.tolerance:.3g}",
    )
    rows, columns = np.nonzero(grid > goal.tolerance)
    axis.plot(columns, rows, linestyle="", marker="x", color="white", markersize=3)
    figure.colorbar(image, ax=axis)


def _norm(tolerance: float, top: float) -> matplotlib.colors.Normalize:
    """Linear up to the tolerance, logarithmic above, so that small losses show beside a collapse."""
    return matplotlib.colors.SymLogNorm(linthresh=max(tolerance, top * 1e-3), vmin=0, vmax=top)

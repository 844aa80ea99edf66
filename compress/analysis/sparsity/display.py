"""`sparsity_display`: the zeros of a network's weights as table, workbook, heat map and histograms.

What is shown and written. Called through `apputils.platform_summaries`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate
from torch import nn

from compress.analysis.sparsity.table import BLOCK, GRANULARITIES, SparsityReport, sparsity_report
from compress.analysis.workbook import Workbook, records, shape_text
from compress.arguments.checked import checks_arguments
from compress.io.files import replacing, write_json
from compress.io.optional import on_use, require

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

logger = logging.getLogger("run")
MOST_DRAWN = 48  # weights whose histograms are drawn
MOST_ROWS, MOST_NUMBERED = 200, 60  # weights in the heat map, and up to how many with numbers in it


@checks_arguments
def sparsity_display(model: nn.Module, sparsity_file: str | Path, block_shape: Sequence[int] = BLOCK) -> SparsityReport:
    """Shows and writes where a network's weights are zero.

    Args:
        model: the network.
        sparsity_file: the workbook, such as `results/run/sparsity.xlsx`. Beside it, with the same stem: `.json`, the
            heat map `.png` and the histograms `_histograms.png`.
        block_shape: of the block granularity: filters, channels, height, width.

    Raises:
        UserError: a file cannot be written.
    """
    require("sparsity_display", "pandas", "openpyxl", "matplotlib")
    path = Path(sparsity_file)
    report = sparsity_report(model, block_shape)
    write_workbook(path, report, block_shape)
    write_json(path.with_suffix(".json"), {"weights": records(report.weights), "total": _plain(report.total)})
    draw_heat_map(report, path.with_suffix(".png"))
    draw_histograms(report, path.with_name(f"{path.stem}_histograms.png"))
    logger.info("\n%s", sparsity_text(report))
    return report


def sparsity_text(report: SparsityReport) -> str:
    """The table for a screen: a line a weight, the totals last; fractions in per cent."""
    numbers = ("std", "mean", "mean_abs")
    lines = [
        [row["weight"], shape_text(row["shape"]), f"{row['elements']:,}", f"{row['zeros']:,}"]
        + [_percent(row[kind]) for kind in GRANULARITIES]
        + [f"{row[name]:.5f}" for name in numbers]
        for row in report.weights.to_dict("records")
    ]
    total = report.total
    lines.append(
        ["all of these", "", f"{total['elements']:,}", f"{total['zeros']:,}"]
        + [_percent(total[kind]) for kind in GRANULARITIES]
        + [f"{total[name]:.5f}" for name in numbers]
    )
    headers = ["weight", "shape", "elements", "zeros", *(f"{kind} %" for kind in GRANULARITIES), "std", "mean", "|w|"]
    table = tabulate(lines, headers, disable_numparse=True, colalign=["left", "left"] + ["right"] * 12)
    return f"{table}\nall parameters: {total['all_zeros']:,} of {total['all_parameters']:,} are zero"


def write_workbook(path: Path, report: SparsityReport, block_shape: Sequence[int]) -> None:
    """Sheets `sparsity` (with a native chart), `total` and `histograms`."""
    book = Workbook()
    note = f"fractions of zero groups; a block is {shape_text(block_shape)} (filters, channels, height, width)"
    sheet = book.add_table("sparsity", report.weights, percent=GRANULARITIES, note=note)
    if len(report.weights):
        book.add_chart(
            sheet, "bar", x="weight", series=["fine", "filters"], title="Zeros by weight", y_title="fraction"
        )
    total = pd.DataFrame([{"quantity": name, "value": value} for name, value in report.total.items()])
    book.add_table("total", total)
    book.add_table("histograms", histogram_table(report), note="elements that are not zero, in bins of equal width")
    book.save(path)


def histogram_table(report: SparsityReport) -> pd.DataFrame:
    """One row a bin: weight, from, to, count."""
    rows = [
        {"weight": name, "from": low, "to": high, "count": count}
        for name, bins in report.histograms.items()
        for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["weight", "from", "to", "count"])


def draw_heat_map(report: SparsityReport, path: Path) -> None:
    """Writes weights over granularities, coloured by the fraction of zero groups, as PNG."""
    from matplotlib.figure import Figure

    names = report.weights["weight"].tolist()[:MOST_ROWS]
    values = report.weights[list(GRANULARITIES)].to_numpy(dtype=float)[:MOST_ROWS]
    height = 1.6 + 0.28 * max(len(names), 1)
    figure = Figure(figsize=(9, height), dpi=120)  # margins by hand: constrained layout takes seconds for many rows
    margin = min(0.45, 0.03 + 0.0085 * max((len(name) for name in names), default=0))
    figure.subplots_adjust(left=margin, right=0.94, bottom=0.2 / height, top=1 - 0.9 / height)
    axes = figure.subplots()
    percent = 100 * values if names else np.full((1, len(GRANULARITIES)), np.nan)
    image = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(GRANULARITIES)), GRANULARITIES)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.xaxis.tick_top()
    for row, line in enumerate(values if len(names) <= MOST_NUMBERED else []):
        for column, value in enumerate(line):
            color = "white" if not value > 0.6 else "black"
            shown = "" if math.isnan(value) else f"{100 * value:.0f}"
            axes.text(column, row, shown, ha="center", va="center", color=color, fontsize="x-small")
    if len(report.weights) > len(names):
        axes.set_xlabel(f"the first {len(names)} of {len(report.weights)} weights; all are in the workbook")
    figure.colorbar(image, label="zero groups, %", fraction=0.04)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def draw_histograms(report: SparsityReport, path: Path, columns: int = 4) -> None:
    """Writes a small histogram of each weight's non-zero elements, titled with its zeros, as PNG."""
    from matplotlib.figure import Figure

    fine = dict(zip(report.weights["weight"], report.weights["fine"], strict=True))
    lines = max(math.ceil(min(len(fine), MOST_DRAWN) / columns), 1)
    height = 0.5 + 2 * lines
    figure = Figure(figsize=(3 * columns, height), dpi=100)  # margins by hand, as above
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.3 / height, top=1 - 0.9 / height, wspace=0.3, hspace=0.6)
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (name, bins) in zip(grid, islice(report.histograms.items(), MOST_DRAWN), strict=False):
        axes.stairs(bins.counts, bins.edges, fill=True)
        axes.set_title(f"{name}\n{100 * fine[name]:.1f} % zero", fontsize="small")
        axes.tick_params(labelsize="x-small")
    for axes in list(grid):  # what is left of the grid
        axes.set_axis_off()
    more = f", the first {MOST_DRAWN} of {len(fine)} (all are in the workbook)" if len(fine) > MOST_DRAWN else ""
    figure.suptitle(f"Weights that are not zero{more}", y=1 - 0.2 / height)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _plain(total: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in total.items()}

"""What the notebooks show: tables and figures of two networks, and of a sensitivity analysis.

Numbers of the other tools, side by side. The notebooks in jupyter/ call these and define nothing.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor, nn

from compress.analysis.macs.layers import macs_table
from compress.analysis.sensitivity.evaluation import directions
from compress.analysis.sensitivity.suggestion import goal_of, suggest
from compress.analysis.sparsity.table import sparsity_report
from compress.selectors import canonical_parameters

BINS = 61


def totals(before: nn.Module, after: nn.Module, example: tuple[Tensor, ...]) -> pd.DataFrame:
    """Parameters, MACs, activation bytes of both networks, and what is left as a fraction."""
    old, new = (macs_table(model, example).total for model in (before, after))
    rows = [{"what": name, "before": old[name], "after": new[name], "left": new[name] / old[name]} for name in old]
    return pd.DataFrame(rows).set_index("what")


def macs_by_layer(before: nn.Module, after: nn.Module, example: tuple[Tensor, ...]) -> Figure:
    """Bars of each layer's MACs: before, after, and after with zeros skipped."""
    old, new = (macs_table(model, example).layers.groupby("layer", sort=False) for model in (before, after))
    columns = {"before": old["macs"].sum(), "after": new["macs"].sum()}
    table = pd.DataFrame({**columns, "after, zeros skipped": new["effective_macs"].sum()})
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    table.plot.bar(ax=axes, width=0.8)
    axes.set(xlabel="", ylabel="MACs")
    return figure


def zeros_by_weight(before: nn.Module, after: nn.Module) -> pd.DataFrame:
    """Shape and fraction of zeros (elements, filters, channels) of each weight, before and after."""
    columns = ["weight", "shape", "fine", "filters", "channels"]
    old, new = (sparsity_report(model).weights[columns].set_index("weight") for model in (before, after))
    return old.join(new, lsuffix=" before", rsuffix=" after")


def weight_histograms(before: nn.Module, after: nn.Module, weight: str) -> Figure:
    """The distribution of one weight's elements before and after; zeros are counted in the title, not drawn."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    named = {"before": before, "after": after}
    values = {name: canonical_parameters(model)[weight].detach().flatten().cpu() for name, model in named.items()}
    most = max(float(each.abs().max()) for each in values.values()) or 1.0
    for axes, (name, each) in zip(figure.subplots(1, 2, sharex=True), values.items(), strict=True):
        alive = each[each != 0].numpy()
        axes.hist(alive, bins=np.linspace(-most, most, BINS).tolist())
        axes.set(title=f"{weight}, {name}: {len(each)} elements, {len(each) - len(alive)} zeros", ylabel="elements")
    return figure


def sensitivity_curve(table: pd.DataFrame, weight: str, metric: str) -> Figure:
    """One weight's curve over the levels among those of the others.

    Args:
        table: what `sensitivity_analysis` returned.
        weight: one of its weights.
        metric: one of its metrics.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, own in table.groupby("weight", sort=False):
        style = {"linewidth": 2.5, "zorder": 3} if name == weight else {"color": "0.8", "linewidth": 1}
        axes.plot(own["level"], own[metric], marker="o", markersize=3, label=name if name == weight else None, **style)
    axes.set(xlabel="level", ylabel=metric)
    axes.legend()
    return figure


def suggested_levels(table: pd.DataFrame, metric: str, tolerance: float, sense_type: str = "element") -> pd.DataFrame:
    """For each weight the hardest level that costs no more than the tolerance, by itself.

    Args:
        table: what `sensitivity_analysis` returned.
        metric: one of its metrics.
        tolerance: in the metric's unit, >= 0.
        sense_type: of the analysis.
    """
    dense = {metric: float(table.groupby("weight", sort=False)[metric].first().iloc[0])}
    goal = goal_of(dense, directions(dense, None), metric, tolerance)
    return suggest(table, goal, sense_type).set_index("weight")

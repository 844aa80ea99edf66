"""A plan drawn: which policy acts when, zeros and learning rates, over one axis of epochs.

Matplotlib. Called by `train.py --plan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.arguments.checked import checks_arguments
from compress.io.files import replacing
from compress.io.optional import require
from compress.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.28  # inches, of a policy


@checks_arguments
def draw_plan(plan: Plan, path: str | Path) -> None:
    """Writes the plan as PNG: the policies' epochs above, zeros and learning rates below where there are any."""
    require("draw_plan", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    zeros, rates = plan.level_groups(), _rates(plan)
    actors = list(dict.fromkeys(name for row in plan.rows for name in row.acting))
    heights = [0.5 + ROW * max(len(actors), 1)] + [2.4] * bool(zeros) + [1.8] * bool(rates)
    figure = Figure(figsize=(8, sum(heights) + 0.8), dpi=120, layout="constrained")
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    _draw_policies(axes.pop(0), plan, actors)
    if zeros:
        _draw_zeros(axes.pop(0), plan)
    if rates:
        _draw_rates(axes.pop(0), plan, rates)
    figure.axes[-1].set(xlabel="epoch, counted from 0", xlim=(0, max(len(plan.rows), 1)))
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary)


def _draw_policies(axes: Axes, plan: Plan, actors: list[str]) -> None:
    for place, name in enumerate(actors):
        epochs = [row.epoch for row in plan.rows if name in row.acting]
        axes.broken_barh([(epoch, 1) for epoch in epochs], (place - 0.35, 0.7), color=f"C{place % 10}")
    axes.set_yticks(range(len(actors)), actors)
    quantized = [row.epoch for row in plan.rows if row.bits]
    axes.set_ylim(len(actors) - 0.3 + 0.6 * bool(quantized), -0.7)
    axes.set_title("What the schedule will do")
    axes.grid(axis="x", alpha=0.3)
    if quantized:
        axes.axvspan(quantized[0], quantized[-1] + 1, color="0.5", alpha=0.12, lw=0)
        text = f"quantized: {plan.rows[quantized[-1]].bits_text()}"
        right = quantized[0] > len(plan.rows) / 2  # towards the middle, where there is room
        spot = quantized[-1] + 0.8 if right else quantized[0] + 0.2
        axes.text(spot, len(actors), text, va="center", ha="right" if right else "left", fontsize="small")


def _draw_zeros(axes: Axes, plan: Plan) -> None:
    epochs = [row.epoch for row in plan.rows] + [len(plan.rows)]
    removed = plan.removed_groups()
    for place, (name, curve) in enumerate(plan.level_groups().items()):
        color = f"C{place % 10}"
        if any(level is not None for level in curve):
            axes.step(epochs, _percent(curve), where="post", color=color, label=f"zeros in {name}")
        if any(fraction is not None for fraction in removed[name]):
            label = f"removed from {name}"
            axes.step(epochs, _percent(removed[name]), where="post", color=color, linestyle="--", label=label)
    axes.set(ylabel="zeros and removed, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="best")


def _percent(fractions: list[float | None]) -> list[float]:
    """With the last one twice, so that the last epoch has a width."""
    percent = [float("nan") if each is None else 100 * each for each in fractions]
    return percent + percent[-1:]


def _draw_rates(axes: Axes, plan: Plan, rates: dict[str, list[float]]) -> None:
    epochs = [row.epoch for row in plan.rows] + [len(plan.rows)]
    for name, values in rates.items():
        axes.step(epochs, values + values[-1:], where="post", label=name)
    axes.set(ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(rates) > 1:
        axes.legend(fontsize="small", loc="best")


def _rates(plan: Plan) -> dict[str, list[float]]:
    """Curves of learning rates by name, one for each group of parameters whose rate is another than the ones before."""
    if not plan.rows:
        return {}
    named = {"network": [row.learning_rates for row in plan.rows]}
    named |= {name: [row.other_rates[name] for row in plan.rows] for name in plan.rows[0].other_rates}
    curves: dict[str, list[float]] = {}
    for name, rows in named.items():
        different = list(dict.fromkeys(tuple(group) for group in zip(*rows, strict=True)))
        for place, values in enumerate(different):
            title = name if len(different) == 1 else f"{name}, group {place}"
            if any(values):  # an optimizer that the plan does not know has no rate, which is not one of 0
                curves[title] = list(values)
    return curves

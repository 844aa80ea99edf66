"""A plan for people: a table of what changes when, and a drawing of sparsity and learning rate over epochs.

Here: text and matplotlib. Not here: how a plan is made (compress/plan.py). Called by `train.py --plan`.
"""

from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from compress.plan import Plan, PlanRow

Group = tuple[float, ...]


def level_groups(plan: Plan) -> dict[str, list[float | None]]:
    """Weights that follow the same levels, under one name: `mid_part.1.weight (+3)` -> level of each epoch."""
    names = list(dict.fromkeys(name for row in plan.rows for name in row.levels))
    curves: dict[tuple[float | None, ...], list[str]] = {}
    for name in names:
        curves.setdefault(tuple(row.levels.get(name) for row in plan.rows), []).append(name)
    return {
        members[0] + (f" (+{len(members) - 1})" if len(members) > 1 else ""): list(curve)
        for curve, members in curves.items()
    }


def plan_table(plan: Plan) -> str:
    """One line for each epoch in which something changes, and the weights of each group below."""
    groups = level_groups(plan)
    rows = []
    for row in plan.changes():
        levels = [_percent(curve[row.epoch]) for curve in groups.values()]
        rates = " ".join(f"{rate:.3g}" for rate in dict.fromkeys(row.learning_rates))
        rows.append([row.epoch, _acting(row), *levels, rates])
    headers = ["epoch", "acting (weights)", *(f"zeros of {name}" for name in groups), "learning rate"]
    text = tabulate(rows, headers, disable_numparse=True, maxheadercolwidths=24)
    return f"{text}\n{len(plan.rows)} epochs; epochs like the one before them are left out"


def draw_plan(plan: Plan, path: Path) -> None:
    """Writes sparsity and learning rate over epochs as PNG."""
    epochs = [row.epoch for row in plan.rows]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = []
    for name, curve in level_groups(plan).items():
        percent = [float("nan") if level is None else 100 * level for level in curve]
        lines += axes.step(epochs, percent, where="post", marker=".", label=f"zeros of {name}")
    axes.set(xlabel="epoch", ylabel="zeros asked for, %", ylim=(0, 100), title="What the schedule will do")
    axes.grid(alpha=0.3)
    rates = axes.twinx()
    for i in range(len(plan.rows[0].learning_rates) if plan.rows else 0):
        values = [row.learning_rates[i] for row in plan.rows]
        lines += rates.step(epochs, values, where="post", linestyle="--", color=f"C{7 + i}", label=f"learning rate {i}")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _acting(row: PlanRow) -> str:
    return ", ".join(f"{name} ({row.reach[name]})" if row.reach.get(name) else name for name in row.acting)


def _percent(level: float | None) -> str:
    return "" if level is None else f"{100 * level:.2f} %"

"""A plan drawn: sparsity and learning rate over epochs.

Here: matplotlib. Not here: how a plan is made, and its table (compress/plan.py). Called by `train.py --plan`.
"""

from pathlib import Path

from matplotlib.figure import Figure

from compress.files import replacing
from compress.plan import Plan


def draw_plan(plan: Plan, path: Path) -> None:
    """Writes sparsity and learning rate over epochs as PNG."""
    epochs = [row.epoch for row in plan.rows]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = []
    for name, curve in plan.level_groups().items():
        percent = [float("nan") if level is None else 100 * level for level in curve]
        lines += axes.step(epochs, percent, where="post", marker=".", label=f"zeros of {name}")
    axes.set(xlabel="epoch", ylabel="zeros asked for, %", ylim=(0, 100), title="What the schedule will do")
    axes.grid(alpha=0.3)
    rates = axes.twinx()
    for i, (name, values) in enumerate(_rates(plan).items()):
        lines += rates.step(epochs, values, where="post", linestyle="--", color=f"C{7 + i}", label=name)
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _rates(plan: Plan) -> dict[str, list[float]]:
    """Curves of learning rates by name: one for each group of parameters of each optimizer."""
    if not plan.rows:
        return {}
    curves = {f"learning rate {i}": [row.learning_rates[i] for row in plan.rows]
              for i in range(len(plan.rows[0].learning_rates))}  # fmt: skip
    for name, groups in plan.rows[0].other_rates.items():
        for i in range(len(groups)):
            curves[f"learning rate {i} of {name}"] = [row.other_rates[name][i] for row in plan.rows]
    return curves

"""A level for each weight, for a loss that is tolerated.

The choice, as pure functions of the analysis's table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.analysis.metric_names import words_of
from compress.analysis.sensitivity.changes import dense_level
from compress.analysis.sensitivity.evaluation import loss_of
from compress.errors import UserError, did_you_mean
from compress.io.optional import on_use

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = on_use("pandas")

MEMBERS = "members"  # column of the weights that share a curve, of an analysis by filter or channel
SHARE = 0.01  # of the dense value: the tolerance when none is given and the metric has none of its own


@dataclass(frozen=True)
class Tolerated:
    """What is tolerated.

    Attributes:
        metric: its name.
        tolerance: the loss allowed to each weight alone, in the metric's unit.
        dense: the dense network's value.
        higher_is_better: of the metric.
    """

    metric: str
    tolerance: float
    dense: float
    higher_is_better: bool

    def loss(self, value: float) -> float:
        """How much worse than dense."""
        return loss_of(value, self.dense, self.higher_is_better)

    def __str__(self) -> str:
        return f"{self.metric} at most {self.tolerance:.4g} worse than the dense network's {self.dense:.6g}"


def goal_of(
    dense: Mapping[str, float], higher_is_better: Mapping[str, bool], metric: str | None, tolerance: float | None
) -> Tolerated:
    """The goal, its gaps filled: the first metric, and what `default_tolerance` says.

    Raises:
        UserError: there is no such metric, or the tolerance is negative.
    """
    name = next(iter(dense)) if metric is None else metric
    if name not in dense:
        raise UserError(f"metric {name!r} is not measured; {did_you_mean(name, dense)}")
    if tolerance is not None and not tolerance >= 0:
        raise UserError(f"tolerance {tolerance}: it must be 0 or more, in units of {name}")
    allowed = default_tolerance(name, dense[name]) if tolerance is None else tolerance
    return Tolerated(name, allowed, dense[name], higher_is_better[name])


def default_tolerance(metric: str, dense: float) -> float:
    """The loss that does not count: 0.05 dB of PSNR, 0.5 points of accuracy, else 1 % of the dense value."""
    words = words_of(metric)
    if words.negligible is None:
        return SHARE * abs(dense)
    is_fraction = words.unit == "%" and abs(dense) <= 1  # a caller's own accuracy in [0, 1]
    return words.negligible / 100 if is_fraction else words.negligible


def suggest(table: pd.DataFrame, goal: Tolerated, sense_type: str) -> pd.DataFrame:
    """For each weight the hardest level whose loss, and that of every milder level, is tolerated.

    Args:
        table: of the analysis, each weight's levels in the order of growing harm; weights that its `attrs["pinned"]`
            names stay dense.
        goal: what is tolerated.
        sense_type: of the analysis.

    Returns:
        one row a weight: `weight`, `level` (the dense one where nothing is tolerated), `zeros`, the metric, `worse by`,
        and `members` if the table has it.
    """
    rows = []
    pinned: Collection[str] = table.attrs.get("pinned", ())
    for weight, own in table.groupby("weight", sort=False):
        tolerated = own[goal.metric].map(goal.loss).le(goal.tolerance + 1e-12).cummin()
        best = own[tolerated].iloc[-1]  # the dense row is always tolerated
        if weight in pinned or (sense_type != "bits" and best["zeros"] <= own["zeros"].iloc[0]):
            best = own.iloc[0]  # a level so low that it prunes nothing does not count
        value = float(best[goal.metric])
        rows.append(
            {
                "weight": weight,
                "level": float(best["level"]),
                "zeros": float(best["zeros"]),
                goal.metric: value,
                "worse by": goal.loss(value),  # a metric may be called `loss`
                **{name: best[name] for name in own.columns if name == MEMBERS},
            }
        )
    return pd.DataFrame(rows)


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The columns of a table of an analysis that are metrics."""
    return [name for name in table.columns[3:] if name != MEMBERS]


def chosen(suggestion: pd.DataFrame, sense_type: str) -> dict[str, float]:
    """Weight -> level, of those that are changed at all."""
    levels = dict(zip(suggestion["weight"], suggestion["level"], strict=True))
    return {name: float(level) for name, level in levels.items() if level != dense_level(sense_type)}

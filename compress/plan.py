"""What will act in each epoch, found without training.

Here: `Plan` and `make_plan`, which asks the policies and rehearses the learning-rate policies on a shadow of the
optimizer. Not here: printing and drawing (apputils). Called by `CompressionScheduler.preview`.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from compress.policies.base import Policy
from compress.policies.lr import LRPolicy


@dataclass(frozen=True)
class PlanRow:
    """One epoch of a plan.

    Attributes:
        epoch: counted from 0.
        acting: instance names of the policies that fire.
        levels: weight -> fraction of zeros asked for by now (it stays after the policy's end).
        learning_rates: of each parameter group of the optimizer, while this epoch runs.
        reach: instance name -> number of weights that it acts on, of the policies that fire.
    """

    epoch: int
    acting: tuple[str, ...]
    levels: dict[str, float] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    reach: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The rows of all epochs, in order."""

    rows: tuple[PlanRow, ...]

    def changes(self) -> list[PlanRow]:
        """The rows in which something differs from the row before."""
        kept: list[PlanRow] = []
        for row in self.rows:
            last = kept[-1] if kept else None
            if last is None or (row.acting, row.levels, row.learning_rates) != (
                last.acting,
                last.levels,
                last.learning_rates,
            ):
                kept.append(row)
        return kept


def make_plan(policies: list[Policy], optimizer: Optimizer | None, epochs: int) -> Plan:
    """Asks every policy what it will do in epochs 0 to `epochs` - 1. Nothing real is touched."""
    rates = rehearse_learning_rates(policies, optimizer, epochs)
    levels: dict[str, float] = {}
    rows = []
    for epoch in range(epochs):
        firing = [policy for policy in policies if policy.window.fires(epoch)]
        for policy in firing:
            levels = {**levels, **policy.plan(epoch)}
        reach = {policy.name: len(policy.weights) for policy in firing}
        rows.append(PlanRow(epoch, tuple(policy.name for policy in firing), levels, rates[epoch], reach))
    return Plan(tuple(rows))


def rehearse_learning_rates(
    policies: list[Policy], optimizer: Optimizer | None, epochs: int
) -> list[tuple[float, ...]]:
    """The learning rates of each epoch, from copies of the policies on a shadow optimizer.

    `ReduceLROnPlateau` depends on metrics, so its rate stays where it is.
    """
    if optimizer is None:
        return [()] * epochs
    shadow = torch.optim.SGD([nn.Parameter(torch.zeros(0))], lr=0.0)
    shadow.param_groups[:] = [
        {**group, "params": [], "lr": group.get("initial_lr", group["lr"])} for group in optimizer.param_groups
    ]
    copies = [policy.on(shadow) for policy in policies if isinstance(policy, LRPolicy)]
    rates = []
    for epoch in range(epochs):
        firing = [policy for policy in copies if policy.window.fires(epoch)]
        for policy in firing:
            policy.begin(epoch)
        rates.append(tuple(float(group["lr"]) for group in shadow.param_groups))
        for policy in firing:
            policy.end(epoch, None)
    return rates

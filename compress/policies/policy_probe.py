"""Watching what policies really do: which hooks fired, and what each one changed.

`Watched`, a policy around a policy. It compares masks, weights, learning rates and the loss before and after each
hook, so it costs time: never for a real run.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from compress.context import PolicyLoss, StepContext
from compress.policies.base import HOOKS, Policy
from compress.policies.lr import LRPolicy
from compress.thinning.expected import Demand

State = dict[str, Any]


class Watched(Policy):
    """Behaves as `policy` does, and notes what came of it.

    Attributes:
        policy: the real one.
        epochs: the epochs in which a hook of it was called.
        changes: what it changed: `masks of N weights`, `N weights`, `learning rate`, `loss term NAME`, `gradients`.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.name, policy.window)
        self.policy = policy
        self.epochs: list[int] = []
        self.changes: dict[str, set[str]] = {}

    @property
    def wants_batch(self) -> bool:  # type: ignore[override]
        """The real policy's."""
        return self.policy.wants_batch

    @property
    def weights(self) -> list[str]:
        """The real policy's."""
        return self.policy.weights

    def before_backward_pass(self, ctx: StepContext, loss: Tensor) -> PolicyLoss | None:
        """Notes the terms that were added."""
        added = self.policy.before_backward_pass(ctx, loss)
        if added is not None:
            for component in added.loss_components:
                if float(component.value.detach()) != 0:
                    self.changes.setdefault("loss term", set()).add(component.name)
        return added

    def plan(self, epoch: int) -> dict[str, float]:
        """The real policy's."""
        return self.policy.plan(epoch)

    def expected(self, epoch: int) -> dict[str, float]:
        """The real policy's."""
        return self.policy.expected(epoch)

    def demand(self, epoch: int) -> Demand | None:
        """The real policy's."""
        return self.policy.demand(epoch)

    @property
    def removable(self) -> list[str]:
        """The real policy's."""
        return self.policy.removable

    def state_dict(self) -> dict[str, Any]:
        """The real policy's."""
        return self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The real policy's."""
        self.policy.load_state_dict(state)

    def watch(self, hook: str, ctx: StepContext) -> None:
        """Calls a hook of the real policy and compares before and after."""
        if not self.epochs or self.epochs[-1] != ctx.epoch:
            self.epochs.append(ctx.epoch)
        before = self._state(ctx)
        getattr(self.policy, hook)(ctx)
        for what, after in self._state(ctx).items():
            known = {**before[what], **after}  # a gradient may have been taken away
            names = {name for name in known if not _same(before[what].get(name), after.get(name))}
            if names:
                self.changes.setdefault(what, set()).update(names)

    def _state(self, ctx: StepContext) -> dict[str, State]:
        optimizer = self.policy.optimizer if isinstance(self.policy, LRPolicy) else ctx.optimizer
        return _state(ctx, optimizer)


def _watching(hook: str) -> Any:
    def call(self: Watched, ctx: StepContext) -> None:
        self.watch(hook, ctx)

    return call


for _hook in HOOKS:
    if _hook != "before_backward_pass":
        setattr(Watched, _hook, _watching(_hook))


def _state(ctx: StepContext, optimizer: Optimizer | None) -> dict[str, State]:
    groups = optimizer.param_groups if optimizer is not None else []
    return {
        "mask": {name: None if m.mask is None else m.mask.clone() for name, m in ctx.masks.items()},
        "weight": {name: m.parameter.detach().clone() for name, m in ctx.masks.items()},
        "gradient": {n: m.parameter.grad.clone() for n, m in ctx.masks.items() if m.parameter.grad is not None},
        "layer": {name: type(module).__name__ for name, module in ctx.model.named_modules()},
        "learning rate": {f"group {i}": float(group["lr"]) for i, group in enumerate(groups)},
    }


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.shape == after.shape and torch.equal(before, after)
    return before is after or (not isinstance(before, Tensor) and before == after and not isinstance(after, Tensor))

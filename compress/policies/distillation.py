"""WHEN a student learns from its teacher: the policy of every distiller.

`DistillationPolicy`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.context import LossComponent, PolicyLoss, StepContext
from compress.distillation.base import Distiller
from compress.distillation.capture import OUTPUT
from compress.distributed import average
from compress.epoch_window import EpochWindow
from compress.parameters import add_group
from compress.policies.base import Policy


class DistillationPolicy(Policy):
    """Makes each minibatch's loss student_wt * loss + distillation_wt * the distiller's terms.

    The terms are logged as they are added: as `NAME_loss`, NAME being the instance's; where a distiller compares
    several layers, as `NAME_loss/LAYER`. The loss that `student_wt` multiplies has the terms of the policies listed
    before in it, so a distiller that changes it is best listed first.

    Args:
        name: the instance's name.
        window: the firing epochs.
        distiller: what to learn.
    """

    def __init__(self, name: str, window: EpochWindow, distiller: Distiller) -> None:
        super().__init__(name, window)
        self.distiller = distiller

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """A teacher `self` is copied when it begins, before any weight of this epoch is masked."""
        self.distiller.teachers.begin_epoch(ctx.epoch)
        self._start(ctx)

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Student's layers are hooked for one forward pass."""
        self._start(ctx)
        distiller = self.distiller
        distiller.teachers.watch(ctx.model, distiller.pairs, distiller.teacher, distiller.pairs.values())

    def before_backward_pass(self, ctx: StepContext, loss: Tensor) -> PolicyLoss | None:
        """The teacher is asked; its terms are added."""
        distiller, pairs = self.distiller, self.pairs(ctx)
        teacher = self._start(ctx)
        call = distiller.teachers.call()
        distiller.follow(ctx.model, ctx.recipes, call, teacher, ctx.optimizer)
        terms = distiller.terms(
            distiller.teachers.student(pairs), distiller.teachers.says(distiller.teacher, pairs.values()), pairs
        )
        weighted = {layer: distiller.distillation_wt * term for layer, term in terms.items()}
        components = [LossComponent(self._label(layer), term) for layer, term in weighted.items()]
        added = torch.stack(list(weighted.values())).sum()
        return PolicyLoss(_combined(loss, distiller.student_wt, added), components)

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Gradients of adaptors, which no DistributedDataParallel knows, become the mean over the processes."""
        average([each.grad for each in self.distiller.parameters() if each.grad is not None])

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """No hook and no tensor is left."""
        self.distiller.teachers.release()

    def pairs(self, ctx: StepContext) -> Mapping[str, str]:
        """The pairs of layers to compare now."""
        return self.distiller.pairs

    def state_dict(self) -> dict[str, Any]:
        """The distiller's state."""
        return {"distiller": self.distiller.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.distiller.load_state_dict(state["distiller"])

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside the student."""
        return self.distiller.parameters()

    def _start(self, ctx: StepContext) -> int:
        """Sees to it that the teacher is there; returns how many thinnings it has gone through."""
        return self.distiller.teachers.start(self.distiller.teacher, ctx.model, len(ctx.recipes)).recipes

    def _label(self, layer: str) -> str:
        return f"{self.name}_loss/{layer}" if layer != OUTPUT and len(self.distiller.pairs) > 1 else f"{self.name}_loss"


def add_adaptors(policies: Iterable[Policy], optimizer: Optimizer) -> None:
    """Puts what distillers train beside the student in a group of the optimizer of its own, at its learning rate.

    That happens when the schedule is built, so that learning-rate policies never meet a new group.
    """
    named = {id(policy.distiller): policy for policy in policies if isinstance(policy, DistillationPolicy)}
    adaptors = {
        f"{policy.name}.{i}": parameter
        for policy in named.values()
        for i, parameter in enumerate(policy.distiller.parameters())
    }
    if adaptors:
        add_group(optimizer, adaptors, {})


def _combined(loss: Tensor, student_wt: float, added: Tensor) -> Tensor:
    if student_wt == 0.0:  # not 0 * loss, which would still give every parameter a gradient
        return added
    return (loss if student_wt == 1.0 else student_wt * loss) + added

"""WHEN which layers are trained: the policy of `StagedDistillation`.

`StagedPolicy`: the stage of the epoch, and the freezing of all that it does not train.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.context import StepContext
from compress.distillation.capture import Call, evaluated
from compress.distillation.staged import StagedDistillation
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.freezing import HeldStatistics, norms_of, take_from_update
from compress.policies.distillation import DistillationPolicy
from compress.selectors import unwrapped


class StagedPolicy(DistillationPolicy):
    """Compares one pair of layers at a time, and trains only what that point depends on.

    Which parameters those are is read off the autograd graph of a forward pass in eval mode with the first batch.

    Args:
        name: the instance's name.
        window: the firing epochs, which the stages share.
        distiller: the stages.

    Raises:
        ValueError: the window is too short.
    """

    distiller: StagedDistillation

    def __init__(self, name: str, window: EpochWindow, distiller: StagedDistillation) -> None:
        super().__init__(name, window, distiller)
        distiller.check_window(window)
        self._behind: dict[str, set[int]] = {}
        self._held = HeldStatistics()
        self._hook: RemovableHandle | None = None
        self._waiting = False

    def pairs(self, ctx: StepContext) -> Mapping[str, str]:
        """The pair of the epoch's stage."""
        layer = self._points(ctx)[-1]
        return {layer: self.distiller.pairs[layer]}

    def settled(self, epoch: int) -> bool:
        """Whether the last firing epoch has come."""
        return epoch >= self.window.last

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Also holds the statistics of what is frozen; what that is, is seen at the first call of the network."""
        super().on_minibatch_begin(ctx)
        self._waiting = True
        if self._behind:
            self._held.hold(norms_of(ctx.model, self._frozen(ctx)))
        else:
            look = torch.compiler.disable(lambda module, args, kwargs: self._look(ctx, args, kwargs))
            self._hook = unwrapped(ctx.model).register_forward_pre_hook(look, with_kwargs=True)

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Also takes the gradients of what is frozen away."""
        super().before_parameter_optimization(ctx)
        self._waiting = False
        take_from_update(self._frozen(ctx))

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Also lets the statistics go.

        Raises:
            UserError: the loop leaves out `before_parameter_optimization`, without which nothing is frozen.
        """
        super().on_minibatch_end(ctx)
        self._held.release()
        if self._waiting:
            raise UserError(
                f"policy of {self.name!r}: StagedDistillation needs the hook before_parameter_optimization, which this "
                "training loop does not call between backward() and optimizer.step()"
            )

    def _points(self, ctx: StepContext) -> list[str]:
        """The points of the stages up to the present one."""
        return list(self.distiller.pairs)[: self.distiller.stage_at(ctx.epoch, self.window) + 1]

    def _frozen(self, ctx: StepContext) -> list[nn.Parameter]:
        """The student's parameters that the stage does not train, and the adaptors of other stages."""
        *earlier, now = self._points(ctx)
        trained = set(self._behind[now])
        if self.distiller.frozen == "earlier":
            trained = trained.difference(*(self._behind[point] for point in earlier))
        matrices = self.distiller.matching.matrices
        others = [matrix for layer, matrix in matrices.items() if layer != now]
        return [parameter for parameter in ctx.model.parameters() if id(parameter) not in trained] + others

    def _look(self, ctx: StepContext, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self._hook is not None
        self._hook.remove()
        self._hook = None
        features = evaluated(unwrapped(ctx.model), Call(args, kwargs), self.distiller.pairs, gradients=True)
        self._behind = {layer: parameters_behind(feature) for layer, feature in features.items()}
        self._held.hold(norms_of(ctx.model, self._frozen(ctx)))


def parameters_behind(tensor: Tensor) -> set[int]:
    """The `id` of every leaf that a tensor depends on, from its autograd graph."""
    found: set[int] = set()
    seen: set[Any] = set()
    open_nodes = [tensor.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        open_nodes += [following for following, _ in node.next_functions]
    return found

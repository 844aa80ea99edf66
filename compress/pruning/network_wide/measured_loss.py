"""The loss of a network while some units are masked, for pruners that rank by what they measure.

`Measure`. A loop offers its loss as `scheduler.measure_loss`; without it the network's outputs are compared with
those before the masks.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.context import StepContext
from compress.distributed import sum_over_ranks, world_size
from compress.errors import UserError
from compress.graph.calls import Arguments, run_on
from compress.graph.modes import uncached_autocast

NO_LOSS = (
    "this training loop offers no loss to measure (scheduler.measure_loss), so outputs are compared with those of the "
    "network before pruning, as a squared difference"
)


class Measure:
    """Measures at one moment of the loop, on the minibatch under way.

    Args:
        ctx: the moment.
        inputs: what the network was called with; needed where the loop offers no loss.

    Raises:
        UserError: neither the loss nor inputs are there.
    """

    def __init__(self, ctx: StepContext, inputs: Arguments | None) -> None:
        self._ctx, self._inputs = ctx, inputs
        self._reference: Any = None
        if ctx.measure_loss is None:
            if not inputs:
                raise UserError(
                    "pruning by measured loss needs scheduler.measure_loss, set before on_minibatch_begin, or a "
                    "network that is called with arguments"
                )
            assert ctx.graph is not None
            ctx.graph.tell_once(NO_LOSS, logging.INFO)
            self._reference = self._outputs()

    def __call__(self, masks: Mapping[str, Tensor]) -> float:
        """The loss with these masks on, mean over processes; NaN counts as infinitely bad."""
        with uncached_autocast(), _masked(self._ctx, masks):  # it would go on with the weights as they were
            value = self._difference() if self._ctx.measure_loss is None else float(self._ctx.measure_loss())
        mean = float(sum_over_ranks(torch.tensor(value, dtype=torch.float64))) / world_size()
        return mean if mean == mean else float("inf")

    def _outputs(self) -> list[Tensor]:
        with _evaluating(self._ctx.model):
            found = run_on(self._ctx.model, self._inputs or ())
        return [each for each in pytree.tree_leaves(found) if isinstance(each, Tensor) and each.is_floating_point()]

    def _difference(self) -> float:
        pairs = zip(self._outputs(), self._reference, strict=True)
        return float(sum((now.double() - before.double()).square().mean() for now, before in pairs))


@contextlib.contextmanager
def _masked(ctx: StepContext, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters with masks on; afterwards they have their own values again, bit for bit."""
    parameters = {name: ctx.masks[name].parameter for name, mask in masks.items() if not bool(mask.all())}
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.masked_fill_(~masks[name].to(parameter.device), 0)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(own[name])


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag

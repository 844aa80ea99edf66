"""WHEN a network is thinned: the policy of the removers.

Here: `ThinningPolicy`: once in each firing epoch, as soon as the masks of the epoch are there. Not here: how
(thinning/thin.py). It is the one policy after which parameters have other shapes.
"""

import logging
from typing import Any

from compress.context import StepContext
from compress.errors import UserError
from compress.graph.trace import ExampleInputs
from compress.policies.base import Policy
from compress.thinning.current import CurrentGraph
from compress.thinning.reasons import reasons_for
from compress.thinning.removers import StructureRemover
from compress.thinning.thin import Thinned, thin
from compress.thinning.wrapping import rewrap
from compress.window import EpochWindow

logger = logging.getLogger("compress")


class ThinningPolicy(Policy):
    """Thins at the first minibatch of a firing epoch, or when a pruner that looks at minibatches first has its masks.

    List it after the pruners whose masks it is to use. Without example inputs it waits for the first batch that the
    network is called with, and thins before the next one.

    Args:
        name: the instance's name.
        window: the firing epochs.
        remover: what may be removed, and the example inputs.
    """

    def __init__(self, name: str, window: EpochWindow, remover: StructureRemover) -> None:
        super().__init__(name, window)
        self.remover = remover
        self._done_in = -1

    def settled(self, epoch: int) -> bool:
        """Whether the last firing epoch has come."""
        return epoch >= self.window.last

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """Thins, if it has not done so in this epoch and no pruner of this epoch still gathers."""
        self._thin_if_due(ctx)

    def on_epoch_end(self, ctx: StepContext) -> None:
        """Thins now, if the masks came with the very last minibatch."""
        self._thin_if_due(ctx)

    def state_dict(self) -> dict[str, Any]:
        """The epoch that was thinned last."""
        return {"done_in": self._done_in}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._done_in = state["done_in"]

    def _thin_if_due(self, ctx: StepContext) -> None:
        if self._done_in == ctx.epoch:
            return
        if ctx.graph is None:
            raise UserError(
                f"extension {self.name!r}: this scheduler has no graph to thin with; build it by file_config"
            )
        if ctx.graph.inputs is None:
            ctx.graph.watch()
        elif not ctx.masks.awaited:
            self._done_in = ctx.epoch
            self._thin(ctx, ctx.graph, ctx.graph.inputs)

    def _thin(self, ctx: StepContext, current: CurrentGraph, inputs: ExampleInputs) -> None:
        model = current.network
        masks = {masker.name: masker.mask for masker in ctx.masks.masked() if masker.mask is not None}
        before = sum(parameter.numel() for parameter in model.parameters())
        inexact = self.remover.allow_inexact
        result = thin(model, masks, inputs, ctx.optimizer, current.get(inexact), allow_inexact=inexact)
        for note in result.notes:
            logger.warning("%s: %s", self.name, note)
        if not result.removed:
            logger.warning("%s: no whole filter or channel is masked, so nothing was removed", self.name)
            return
        reasons = reasons_for(result.removed, current.reasons)
        current.forget()
        rewrap(ctx.model)
        ctx.masks.take_cut(result.masks, result.recipe.slice)
        ctx.recipes.append({**result.recipe.to_dict(), "reasons": reasons})
        after = sum(parameter.numel() for parameter in model.parameters())
        logger.info("%s", _story(self.name, ctx.epoch, result, before, after))


def _story(name: str, epoch: int, result: Thinned, before: int, after: int) -> str:
    units = sum(len(each) for each in result.removed.values())
    return (
        f"{name}: thinned in epoch {epoch}: {units} units of {len(result.removed)} groups removed, parameters "
        f"{before:,} -> {after:,}; proved on real tensors: outputs differ by {result.difference:.1e} relative "
        f"(masking the rest of each unit changed them by {result.masking_change:.1e})"
    )

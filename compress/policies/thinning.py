"""WHEN a network is thinned: the policy of the removers.

`ThinningPolicy`: once in each firing epoch, as soon as the masks of the epoch are there. It is the one policy after
which parameters have other shapes.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from compress.context import NetworkCut, StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.graph.trace import ExampleInputs
from compress.policies.base import Policy
from compress.thinning.complete import complete_masks, zero_masks
from compress.thinning.current import CurrentGraph
from compress.thinning.proof.inputs import are_real
from compress.thinning.reasons import reasons_for
from compress.thinning.removers import StructureRemover
from compress.thinning.thin import Thinned, remove_units
from compress.thinning.wrapping import rewrap

logger = logging.getLogger("compress")


class ThinningPolicy(Policy):
    """Thins at the first minibatch of a firing epoch, or when a pruner that looks at minibatches first has its masks.

    List it after the pruners whose masks it is to use. Zeros that a regularizer's threshold has made count as masked,
    and in the last epoch of such a regularizer it thins at the epoch's end. It proves itself on the first training
    batch, where one has been seen. Without example inputs it waits for that batch, and thins before the next one.

    Args:
        name: the instance's name.
        window: the firing epochs.
        remover: what may be removed, and the example inputs.
    """

    wants_batch = True

    def __init__(self, name: str, window: EpochWindow, remover: StructureRemover) -> None:
        super().__init__(name, window)
        self.remover = remover
        self._done_in = -1

    def settled(self, epoch: int) -> bool:
        """Whether the last firing epoch has come."""
        return epoch >= self.window.last

    def needs(self, hook: str, epoch: int) -> bool:
        """At an epoch's end only if it has not thinned before."""
        return hook != "on_epoch_end" or self._done_in != epoch

    def refuse_quantized(self, structures: Sequence[Mapping[str, Any]]) -> None:
        """Raises UserError where quantization has exchanged layers already (`structures` of the scheduler)."""
        if structures:
            raise UserError(
                f"extension {self.name!r}: the network is quantized already, and quantized networks cannot be thinned. "
                "Thin before quantizing: in a new run, or without the quantizer's epochs; else leave "
                f"{self.name!r} out of the schedule. Nothing was thinned"
            )

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
        self.refuse_quantized(ctx.structures)
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
        graph, zeros = current.get(inexact), zero_masks(model, ctx.masks.zeroed)
        completion = complete_masks(graph, ctx.masks.clearing(), model, zeros)
        lone = [masker.name for masker in ctx.masks.masked() if masker.alone]
        if lone and complete_masks(graph, masks, model, zeros).removed != completion.removed:
            current.tell_once(
                f"{self.name}: rows, columns, kernels and blocks go alone, so units that only the masks of "
                f"{', '.join(lone)} clear stay in the network, masked; group_type Channels or Filters would take them "
                "out, and so does test.py --thin",
                logging.INFO,
            )
        tried = current.proved_on()
        result = remove_units(
            model, graph, completion.removed, tried, ctx.optimizer, masks, completion.notes, allow_inexact=inexact
        )
        for note in result.notes:
            if note not in graph.notes:  # these were said when the graph was made
                current.tell_once(f"{self.name}: {note}")
        if not result.removed:
            logger.warning(
                "%s: no whole filter or channel is masked or zeroed by a regularizer, so nothing was removed", self.name
            )
            return
        reasons = reasons_for(result.removed, current.reasons)
        current.forget()
        rewrap(ctx.model)
        ctx.masks.take_cut(result.masks, result.recipe.slice)
        ctx.tell(NetworkCut({**result.recipe.to_state(), "reasons": reasons}))
        after = sum(parameter.numel() for parameter in model.parameters())
        source = _source(current, inputs)
        level = logging.INFO if result.exact else logging.WARNING
        logger.log(level, "%s", _story(f"{self.name}: thinned in epoch {ctx.epoch}", result, (before, after), source))


def _source(current: CurrentGraph, inputs: ExampleInputs) -> str:
    """What a thinning was proved on, in words."""
    if current.batch is not None:
        return "the first training batch"
    if are_real(inputs):
        return "the example inputs"
    if are_real(inputs, several=False):  # in training mode a norm takes its statistics over several
        return "the example inputs, and in training mode on random ones, as they hold a single sample"
    return "random inputs (no training batch was at hand)"


def _story(what: str, result: Thinned, parameters: tuple[int, int], source: str) -> str:
    units = sum(len(each) for each in result.removed.values())
    before, after = parameters
    proof, where = f"proved on {source}: outputs differ", f" in {result.mode} mode" if result.mode else ""
    if not result.exact:
        proof = f"INEXACT, which allow_inexact allows: measured on {source}, removing changed the outputs"
    return (
        f"{what}: {units} units of {len(result.removed)} groups removed, parameters {before:,} -> {after:,}; {proof} "
        f"by {result.difference:.1e} relative{where} (masking the rest of each unit changed them by "
        f"{result.masking_change:.1e})"
    )

"""WHEN masks are made and put on: the policy of every pruner.

Here: `PruningPolicy` and its arguments. Not here: which elements go (pruning/), the masks' bookkeeping (masks.py).
"""

from typing import Annotated, Any

from pydantic import Field

from compress.context import StepContext
from compress.errors import UserError
from compress.masks import ParameterMasker
from compress.policies.base import Policy
from compress.pruning.base import Pruner, Sparsity
from compress.selectors import WeightSelector
from compress.window import EpochWindow


class PruningPolicy(Policy):
    """Asks a pruner for masks at each firing epoch's begin, and applies them at each minibatch's.

    A mask outlives its policy: the scheduler goes on applying it after the window has ended.

    Args:
        name: the instance's name.
        window: the firing epochs.
        pruner: what to prune.
        levels: fractions of zeros that replace the pruner's own while this policy fires.
        keep_mask: at the end of the last firing epoch the masks become permanent also on weights that were masked
            only on forward or had double copies.
        mini_batch_pruning_frequency: make new masks every so many minibatches (counted over epochs); 0 = only at
            an epoch's begin.
        mask_on_forward_only: do not mask again after the optimizer's step, so that masked weights may return.
        mask_gradients: zero the gradients of masked weights; needs `mask_on_forward_only`.
        use_double_copies: the optimizer updates the unmasked weights; forward passes, validation, saving and
            export see the masked ones.
        discard_masks_at_minibatch_end: forget the masks after each minibatch.
        skip_first_minibatch: leave the first minibatch of each epoch alone.

    Raises:
        ValueError: `mask_gradients` without `mask_on_forward_only`.
    """

    def __init__(
        self,
        name: str,
        window: EpochWindow,
        pruner: Pruner,
        *,
        levels: dict[WeightSelector, Sparsity] | None = None,
        keep_mask: bool = False,
        mini_batch_pruning_frequency: Annotated[int, Field(ge=0)] = 0,
        mask_on_forward_only: bool = False,
        mask_gradients: bool = False,
        use_double_copies: bool = False,
        discard_masks_at_minibatch_end: bool = False,
        skip_first_minibatch: bool = False,
    ) -> None:
        super().__init__(name, window)
        if mask_gradients and not mask_on_forward_only:
            raise ValueError("mask_gradients needs mask_on_forward_only: true; otherwise masks hold anyway")
        self.pruner = pruner
        self.levels = levels
        self.keep_mask = keep_mask
        self.mini_batch_pruning_frequency = mini_batch_pruning_frequency
        self.mask_on_forward_only = mask_on_forward_only
        self.mask_gradients = mask_gradients
        self.use_double_copies = use_double_copies
        self.discard_masks_at_minibatch_end = discard_masks_at_minibatch_end
        self.skip_first_minibatch = skip_first_minibatch

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """New masks; the weights are touched at the first minibatch."""
        if self.levels is not None:
            self.pruner.override_levels(self.levels)
        self._renew_masks(ctx)

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """New masks if they are due, then the masks are put on."""
        if self.skip_first_minibatch and ctx.step == 0:
            return
        due = self.mini_batch_pruning_frequency
        if due and ctx.step > 0 and (ctx.epoch * ctx.steps_per_epoch + ctx.step) % due == 0:
            self._renew_masks(ctx)
        for masker in self._maskers(ctx):
            if masker.use_double_copies:
                masker.hide()
            else:
                masker.apply_if_needed()

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Unmasked copies come back; gradients are masked if asked."""
        for masker in self._maskers(ctx):
            if masker.mask_gradients:
                masker.zero_masked_gradient()
            masker.reveal()

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Masks are discarded if asked."""
        if self.use_double_copies and any(masker.unmasked_copy is not None for masker in self._maskers(ctx)):
            raise UserError(
                f"policy of {self.name!r}: use_double_copies needs the hook before_parameter_optimization, which this "
                "training loop does not call between backward() and optimizer.step()"
            )
        if self.discard_masks_at_minibatch_end:
            for masker in self._maskers(ctx):
                masker.set_mask(None)

    def on_epoch_end(self, ctx: StepContext) -> None:
        """The masks become permanent after the last firing epoch, if asked."""
        if self.keep_mask and ctx.epoch == self.window.last:
            for masker in self._maskers(ctx):
                masker.mask_on_forward_only = masker.use_double_copies = masker.mask_gradients = False
                masker.unmasked_copy = None
                masker.apply()

    @property
    def weights(self) -> list[str]:
        """The pruner's weights."""
        return self.pruner.weights

    def settled(self, epoch: int) -> bool:
        """Whether the last firing epoch has come."""
        return epoch >= self.window.last

    def plan(self, epoch: int) -> dict[str, float]:
        """The pruner's fractions of zeros."""
        planned = self.pruner.plan(epoch, self.window)
        return {
            **planned,
            **{name: self.levels[name] for name in planned if self.levels and name in self.levels},
        }

    def state_dict(self) -> dict[str, Any]:
        """The pruner's state."""
        return self.pruner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the pruner's state."""
        self.pruner.load_state_dict(state)

    def _maskers(self, ctx: StepContext) -> list[ParameterMasker]:
        return [ctx.masks[name] for name in self.pruner.weights]

    def _renew_masks(self, ctx: StepContext) -> None:
        maskers = {masker.name: masker for masker in self._maskers(ctx)}
        weights = {name: masker.parameter.detach() for name, masker in maskers.items()}
        for name, mask in self.pruner.masks(weights, ctx, self.window).items():
            maskers[name].set_mask(mask)
        for masker in maskers.values():
            masker.use_double_copies = self.use_double_copies
            masker.mask_on_forward_only = self.mask_on_forward_only
            masker.mask_gradients = self.mask_gradients

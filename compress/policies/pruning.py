"""WHEN masks are made and put on: the policy of every pruner.

`PruningPolicy` and its arguments.
"""

import logging
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError, did_you_mean
from compress.masks import ParameterMasker
from compress.policies.base import Policy
from compress.policies.gathering import Gathering
from compress.pruning.base import Pruner, Sparsity
from compress.selectors import WeightSelector, expand, expand_mapping
from compress.thinning.expected import Demand

logger = logging.getLogger("compress")


class PruningPolicy(Policy):
    """Asks a pruner for masks at each firing epoch's begin, and applies them at each minibatch's.

    A mask outlives its policy: the scheduler continues applying it after the window has ended.

    Args:
        name: the instance's name.
        window: the firing epochs.
        pruner: what to prune.
        levels: selectors of the pruner's weights -> fractions of zeros that replace the pruner's own.
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
        fold_batchnorm: rank filters by their weights as they are once the BatchNorm behind them is folded in (its
            scale only). The pairs are found in the first forward pass, so the first masks come with that minibatch.

    Raises:
        ValueError: `mask_gradients` without `mask_on_forward_only`; `levels` for a pruner without
            levels, or of weights that it does not prune; a window that the pruner cannot work in.
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
        fold_batchnorm: bool = False,
    ) -> None:
        super().__init__(name, window)
        if mask_gradients and not mask_on_forward_only:
            raise ValueError("mask_gradients needs mask_on_forward_only: true; otherwise masks hold anyway")
        if levels and type(pruner).override_levels is Pruner.override_levels:
            raise ValueError(f"{type(pruner).__name__} takes no 'levels' in its policy")
        pruner.check_window(window)
        for selector in levels or {}:
            if not expand(selector, pruner.weights):
                help_text = did_you_mean(selector, pruner.weights)
                raise ValueError(f"levels: {selector!r} is none of the weights that {name!r} prunes; {help_text}")
        self.pruner = pruner
        self.levels = None if levels is None else expand_mapping(levels, pruner.weights)
        self.keep_mask = keep_mask
        self.mini_batch_pruning_frequency = mini_batch_pruning_frequency
        self.mask_on_forward_only = mask_on_forward_only
        self.mask_gradients = mask_gradients
        self.use_double_copies = use_double_copies
        self.discard_masks_at_minibatch_end = discard_masks_at_minibatch_end
        self.skip_first_minibatch = skip_first_minibatch
        self.gathering = Gathering(name, pruner, fold_batchnorm)
        self._others: list[str] = []  # masked with the pruner's weights, such as their biases
        self._told: set[str] = set()

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """New masks, unless the pruner must see minibatches first; the weights are touched at the first minibatch."""
        if self.gathering.start():
            ctx.masks.awaited.add(self.name)
        else:
            self._renew_masks(ctx)

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """New masks if they are due, then the masks are put on."""
        if self.skip_first_minibatch and ctx.step == 0:
            return
        due = self.mini_batch_pruning_frequency
        moment = ctx.epoch * ctx.steps_per_epoch + ctx.step
        if due and ctx.step > 0 and moment % due == 0 and not (self.gathering.left or self.gathering.start()):
            self._renew_masks(ctx)
        ctx.masks.before_forward(self._masked)
        self.gathering.watch(ctx)

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Unmasked copies come back; masks that waited for gradients are made; gradients are masked if asked."""
        ctx.masks.show_updated(self._masked)  # first: new masks are made of the values that the optimizer updates
        if self.gathering.observe(ctx):
            self._renew_masks(ctx)
            if not self.use_double_copies:
                ctx.masks.before_forward(self._masked)
        ctx.masks.before_step(self._masked)

    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Masks are discarded if asked.

        Raises:
            UserError: the loop leaves out `before_parameter_optimization`, which these settings need.
        """
        doubles = self.use_double_copies and any(masker.unmasked_copy is not None for masker in self._maskers(ctx))
        if doubles or self.gathering.waiting:
            what = "use_double_copies" if doubles else type(self.pruner).__name__
            raise UserError(
                f"policy of {self.name!r}: {what} needs the hook before_parameter_optimization, which this "
                "training loop does not call between backward() and optimizer.step()"
            )
        if self.discard_masks_at_minibatch_end:
            for masker in self._maskers(ctx):
                masker.set_mask(None, coupled_by=self._giver(masker.name))

    def on_epoch_end(self, ctx: StepContext) -> None:
        """The masks become permanent after the last firing epoch, if asked."""
        if self.keep_mask and ctx.epoch == self.window.last:
            ctx.masks.make_permanent(self._masked)

    def needs(self, hook: str, epoch: int) -> bool:
        """At an epoch's end only for masks that are to be kept."""
        return hook != "on_epoch_end" or (self.keep_mask and epoch == self.window.last)

    @property
    def weights(self) -> list[str]:
        """The pruner's weights."""
        return self.pruner.weights

    @property
    def awaits_masks(self) -> bool:
        """Whether masks of this epoch are still to come, because the pruner is looking at minibatches first."""
        return self.gathering.left > 0

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

    def expected(self, epoch: int) -> dict[str, float]:
        """Those that come of them when whole elements or groups go."""
        return {name: self.pruner.realised(name, level) for name, level in self.plan(epoch).items()}

    def demand(self, epoch: int) -> Demand | None:
        """The pruner's at its levels, unless it acts on a network with fused blocks."""
        return self.pruner.demand(self.plan(epoch)) if self.sees is None else None

    @property
    def removable(self) -> list[str]:
        """The pruner's weights that lose whole filters or channels."""
        return [name for name in self.weights if self.pruner.leaves(name)]

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Shows the pruner the network; errors as of `know`."""
        self.know(self.pruner.weights, self.seen(model))
        self.pruner.note_sizes(self.seen(model))

    def state_dict(self) -> dict[str, Any]:
        """The pruner's state, and what is being gathered."""
        return {
            "pruner": self.pruner.state_dict(),
            "gathering": self.gathering.state_dict(),
            "others": list(self._others),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.pruner.load_state_dict(state["pruner"])
        self.gathering.load_state_dict(state["gathering"])
        self._others = list(state["others"])

    @property
    def _masked(self) -> list[str]:
        return [*self.pruner.weights, *self._others]

    def _maskers(self, ctx: StepContext) -> list[ParameterMasker]:
        return [ctx.masks[name] for name in self._masked]

    def _renew_masks(self, ctx: StepContext) -> None:
        ctx.masks.awaited.discard(self.name)
        if self.levels is not None:
            self.pruner.override_levels(self.levels)
        weights = {name: ctx.masks[name].parameter.detach() for name in self.pruner.weights}
        masks = self.pruner.masks(self.gathering.folded(weights, ctx), ctx, self.window)
        for name in set(self._others) - set(masks):
            ctx.masks[name].set_mask(None, coupled_by=self.name)
        self._others = [name for name in masks if name not in weights]
        for name, mask in masks.items():
            giver = self._giver(name)
            if giver is None:
                ctx.masks[name].set_mask(mask, alone=self.pruner.goes_alone(name))
                ctx.masks[name].forward_scale = self.pruner.forward_scale(name, mask)
            else:
                ctx.masks[name].set_mask(mask, coupled_by=giver)
            self._tell_if_nothing_is_left(name, mask)
        for masker in self._maskers(ctx):
            masker.use_double_copies = self.use_double_copies
            masker.mask_on_forward_only = self.mask_on_forward_only
            masker.mask_gradients = self.mask_gradients
        for name, values in self.pruner.rewrite(weights, masks, ctx).items():
            ctx.masks[name].rewrite(values)

    def _giver(self, name: str) -> str | None:
        """By whom a mask is given that is joined with others; None where it replaces that of another policy."""
        if name not in self.pruner.weights:
            return self.name
        kind = self.pruner.stands_beside(name)
        return None if kind is None else f"{kind} of this weight"

    def _tell_if_nothing_is_left(self, name: str, mask: Tensor) -> None:
        # The first row mostly tells.
        if mask.numel() and name not in self._told and not (mask.dim() and mask[:1].any()) and not mask.any():
            self._told.add(name)
            logger.warning("%r has pruned all of %r: whatever that layer computes is lost", self.name, name)

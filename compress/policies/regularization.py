"""WHEN a term is added to the loss: the policy of every regularizer.

`RegularizationPolicy`.
"""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.context import LossComponent, PolicyLoss, StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.policies.base import Policy
from compress.regularization.base import Regularizer


class RegularizationPolicy(Policy):
    """Adds the regularizer's term to each minibatch's loss, and zeroes what falls below its threshold.

    The term is logged as `NAME_loss`, NAME being the instance's. What a threshold zeroes is zeroed once, after the
    optimizer's step, and may come back with the next one; with `keep_mask` the zeros of the window's very last
    minibatch become a mask that holds from then on, together with a mask that a pruner has put on the same weight.
    A thinner takes whole zeroed units out with or without a mask; in the window's last epoch it waits for these zeros.

    Args:
        name: the instance's name.
        window: the firing epochs.
        regularizer: what to add.
        keep_mask: keep the last threshold's zeros for good; keeps nothing without `threshold_criteria`.
    """

    def __init__(self, name: str, window: EpochWindow, regularizer: Regularizer, *, keep_mask: bool = False) -> None:
        super().__init__(name, window)
        self.regularizer = regularizer
        self.keep_mask = keep_mask
        self._changed = False

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Looks the weights up; errors as of `know`."""
        self.know(self.regularizer.weights, self.seen(model))

    @property
    def makes_zeros(self) -> bool:
        """Whether this regularizer has a threshold."""
        return getattr(self.regularizer, "threshold_criteria", None) is not None

    @property
    def keeps_nothing(self) -> bool:
        """Whether a mask is to be kept that this regularizer never makes."""
        return self.keep_mask and not self.makes_zeros

    @property
    def weights(self) -> list[str]:
        """The regularizer's weights."""
        return self.regularizer.weights

    def settled(self, epoch: int) -> bool:
        """Whether the last firing epoch has come, where a threshold makes zeros."""
        return not self.makes_zeros or epoch >= self.window.last

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """In the last epoch the zeros that stay come with the last minibatch; a thinner waits for them."""
        if self.makes_zeros and ctx.epoch == self.window.last:
            ctx.masks.awaited.add(self.name)

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """What regularizers do to weights for one minibatch."""
        if type(self.regularizer).before_forward is Regularizer.before_forward:
            return
        doubles = [name for name in self.weights if ctx.masks[name].use_double_copies]
        if doubles:
            raise UserError(
                f"policy of {self.name!r}: {doubles[0]!r} has a pruner with use_double_copies, which would put back "
                "other weights than this regularizer changed; use one of the two at a time"
            )
        self.regularizer.before_forward(self._parameters(ctx), ctx)
        self._changed = True

    def before_backward_pass(self, ctx: StepContext, loss: Tensor) -> PolicyLoss | None:
        """The loss with the term added, and the term under its own name."""
        term = self.regularizer.loss(self._parameters(ctx), ctx)
        if term is None:
            return None
        return PolicyLoss(loss + term, [LossComponent(f"{self.name}_loss", term)])

    def before_parameter_optimization(self, ctx: StepContext) -> None:
        """Undoes what was done to weights for the minibatch."""
        if self._changed:
            self.regularizer.after_backward(self._parameters(ctx), ctx)
            self._changed = False

    @torch.no_grad()
    def on_minibatch_end(self, ctx: StepContext) -> None:
        """Zeroes what is below the threshold; the last time for good, if asked."""
        if self._changed:
            raise UserError(
                f"policy of {self.name!r}: it needs the hook before_parameter_optimization, which this training loop "
                "does not call between backward() and optimizer.step()"
            )
        last = self.keep_mask and ctx.epoch == self.window.last and ctx.is_last_step
        for name, mask in self.regularizer.threshold_masks(self._parameters(ctx), ctx).items():
            masker = ctx.masks[name]
            masker.parameter.masked_fill_(~mask, 0)
            alone = self.regularizer.goes_alone(name)
            if not alone:
                ctx.masks.zeroed.add(name)
            if last:
                with_others = mask if masker.mask is None else mask & masker.mask
                masker.set_mask(with_others, alone=alone and (masker.mask is None or masker.alone))
        if ctx.is_last_step:
            ctx.masks.awaited.discard(self.name)

    def _parameters(self, ctx: StepContext) -> dict[str, Tensor]:
        return {name: ctx.masks[name].parameter for name in self.weights}

"""Dropout of whole filters: `DropFilterRegularizer`.

Filters that are left out for one minibatch.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.groups import Tilings, group_count, spread
from compress.registry import REGULARIZERS
from compress.regularization.base import Regularizer
from compress.selectors import WeightSelector

DropProbability = Annotated[float, Field(ge=0.0, lt=1.0)]


@REGULARIZERS.register
class DropFilterRegularizer(Regularizer):
    """Leaves each filter out of a minibatch with a probability, and scales the others up by 1 / (1 - p).

    Paper: Pan et al. 2018, DropFilter, arXiv 1811.06783, with dropout's inverse scaling. The weights change for
    one forward and backward pass and come back bit for bit, as does everything that the layers are; gradients are those
    of the scaled weights, so a left-out filter has none. Validation sees the plain weights.

    When to use: against overfitting of wide convolutional layers; such a network also stands filter pruning better.

    Sample:
        regularizers:
          drop_filter:
            class: DropFilterRegularizer
            reg_regims: {'conv*.weight': 0.1}

    Args:
        reg_regims: weight selector -> probability that a filter is left out, [0, 1).
    """

    def __init__(self, reg_regims: dict[WeightSelector, DropProbability]) -> None:
        self.probabilities = dict(reg_regims)
        self.weights = list(reg_regims)
        self._tilings = Tilings()
        self._plain: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def before_forward(self, weights: Mapping[str, Tensor], ctx: StepContext) -> None:
        """Draws the filters and multiplies the weights by 0 or 1 / (1 - p)."""
        for name, probability in self.probabilities.items():
            weight = weights[name]
            tile = self._tilings.tile(ctx.model, name, weight.shape, "Filters")
            draws = torch.rand(group_count(weight.shape, tile), generator=ctx.generator)
            scale = (draws >= probability).to(weight) / (1.0 - probability)
            factor = spread(scale, weight.shape, tile)
            self._plain[name] = (weight.clone(), factor)
            weight.mul_(factor)

    @torch.no_grad()
    def after_backward(self, weights: Mapping[str, Tensor], ctx: StepContext) -> None:
        """Puts the plain weights back; the chain rule's factor goes into the gradients."""
        for name, (plain, factor) in self._plain.items():
            weights[name].copy_(plain)
            gradient = weights[name].grad
            if gradient is not None:
                gradient.mul_(factor)
        self._plain.clear()

    def faults(self, model: nn.Module) -> list[str]:
        """Weights that have no filters."""
        return self._tilings.faults(model, dict.fromkeys(self.weights, "Filters"))

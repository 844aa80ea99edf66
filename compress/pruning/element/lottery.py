"""Iterative pruning with rewinding: `LotteryTicketPruner`."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.criteria import mask_smallest, zeros_of
from compress.epoch_window import EpochWindow
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors


@PRUNERS.register
class LotteryTicketPruner(Pruner):
    """Prunes a share of the remaining weights by magnitude, rewinds all others to an early epoch, trains again.

    Paper: Frankle & Carbin 2019, The Lottery Ticket Hypothesis, arXiv 1803.03635, strategy 1; with rewinding to an
    early epoch in place of the initialisation: Frankle et al. 2020, Linear Mode Connectivity, arXiv 1912.05671.

    The policy's first firing epoch only saves: when it begins, every parameter of the network is put aside. Each later
    firing epoch prunes `pruning_rate` of each weight's remaining elements and sets every parameter back to what was put
    aside (pruned elements stay zero); the optimizer's momenta of them are forgotten. After k rounds a weight of n
    elements has round((1 - (1 - rate)^k) * n) zeros. BatchNorm's running statistics are not rewound; they follow.

    When to use: research on sparse training, or the highest quality at a high sparsity when time does not count. With
    `epochs: [0, 10, 20, 30]` rounds last 10 epochs; epoch 0 is the initialisation, epoch 1 or 2 the early epoch. Use a
    learning rate that restarts with each round (`CosineAnnealingWarmRestarts`).

    Sample:
        pruners:
          lottery:
            class: LotteryTicketPruner
            weights: ['*.weight']
            pruning_rate: 0.2

    Args:
        weights: selectors of the weights to prune.
        pruning_rate: fraction of the remaining elements that each round prunes, (0, 1).
    """

    def __init__(self, weights: WeightSelectors, pruning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2) -> None:
        self.weights = weights
        self.pruning_rate = pruning_rate
        self.saved: dict[str, Tensor] = {}

    def check_window(self, window: EpochWindow) -> None:
        """It takes an epoch to save in and one to prune in."""
        if len(window.epochs) < 2:
            raise ValueError(
                f"LotteryTicketPruner would prune nothing in {window}: its first firing epoch only saves the "
                "weights to rewind to, each later one prunes; give two epochs at least"
            )

    def level(self, epoch: int, window: EpochWindow) -> float:
        """Fraction of zeros after that epoch's round."""
        rounds = sum(1 for firing in window.epochs if firing <= epoch) - 1
        return 1.0 - (1.0 - self.pruning_rate) ** rounds

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """None in the first firing epoch; then the smallest remaining magnitudes go too."""
        if ctx.epoch == window.first or not self.saved:
            self.saved = {name: masker.parameter.detach().clone() for name, masker in ctx.masks.items()}
            return {}
        level = self.level(ctx.epoch, window)
        masks = {}
        for name in self.weights:
            size, before = weights[name].abs(), ctx.masks[name].mask
            if before is not None:  # what is pruned already goes first, whatever value it has now
                size = size.masked_fill(~before, -1.0)
            masks[name] = mask_smallest(size, zeros_of(level, size.numel()))
        return masks

    def rewrite(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], ctx: StepContext
    ) -> dict[str, Tensor]:
        """The saved values, in each round."""
        if not masks:
            return {}
        if ctx.optimizer is not None:
            for masker in ctx.masks.values():
                ctx.optimizer.state.pop(masker.parameter, None)
        with torch.no_grad():
            return dict(self.saved)

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The level of that round."""
        return dict.fromkeys(self.weights, self.level(epoch, window))

    def state_dict(self) -> dict[str, Any]:
        """The parameters put aside."""
        return {"saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.saved = dict(state["saved"])

"""Channels ranked by their BatchNorm scale: `BatchNormScalePruner` (network slimming)."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import global_masks, mask_smallest
from compress.epoch_window import EpochWindow
from compress.levels import LevelArgument, as_level
from compress.pruning.base import Pruner
from compress.pruning.coupled_masks import agreed_masks
from compress.pruning.structure import groups_to_prune
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors, norm_scales


@PRUNERS.register
class BatchNormScalePruner(Pruner):
    """Switches off the channels with the smallest |gamma| of their BatchNorm; gamma and beta become zero.

    Paper: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519,
    section 3. With scope `global` one threshold spans all layers (round(s * n) of n channels, but no layer loses its
    last one), with `layer` each one loses floor(s * n) of its own.

    When to use: after some tens of epochs with `BatchNormScaleRegularizer`.

    Sample:
        pruners:
          slimming:
            class: BatchNormScalePruner
            desired_sparsity: 0.5

    Args:
        desired_sparsity: fraction of channels to switch off, [0, 1], or a level in place (`compress/levels.py`).
        weights: selectors of scales; None takes the scale of every BatchNorm of the model.
        scope: `global` or `layer`.

    Raises:
        ValueError: the model has no BatchNorm with a scale, or a weight is not a normalisation layer's scale.
    """

    def __init__(
        self,
        model: nn.Module,
        desired_sparsity: LevelArgument,
        weights: WeightSelectors | None = None,
        scope: Literal["global", "layer"] = "global",
    ) -> None:
        self.level = as_level(desired_sparsity)
        self.weights = norm_scales(model, weights)
        self.scope = scope

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Masks of the scales and shifts, and of whole channels where all coupled scales agree."""
        level = self.level.at(ctx.epoch, window)
        scores = {name: weights[name].abs() for name in self.weights}
        if self.scope == "global":
            kept = global_masks(scores, level)
        else:
            kept = {name: mask_smallest(s, groups_to_prune(level, s.numel())) for name, s in scores.items()}
        places = {(name, 0): keep for name, keep in kept.items()}
        found = agreed_masks(ctx, places, {(name, 0): scores[name] for name in kept}, self._threshold(scores, kept))
        for name, keep in kept.items():
            shift = name.removesuffix("weight") + "bias"
            if shift in ctx.masks:  # a channel is off only if its shift is too
                found[shift] = keep.clone()
        return found

    def _threshold(self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> float | None:
        """The largest |gamma| that goes, which spans all layers; None where each layer has its own."""
        if self.scope == "layer":
            return None
        return max(
            (float(score[~kept[name]].max()) for name, score in scores.items() if not kept[name].all()), default=0.0
        )

    def leaves(self, name: str) -> bool:
        """Whole channels go."""
        return True

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The level; with scope `global`, of all channels together."""
        return dict.fromkeys(self.weights, self.level.at(epoch, window))

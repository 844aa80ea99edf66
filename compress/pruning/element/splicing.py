"""Pruning with a way back: `SplicingPruner` (dynamic network surgery)."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelector

NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@PRUNERS.register
class SplicingPruner(Pruner):
    """Prunes what falls below a low threshold and brings back what rises to a high one; between them nothing changes.

    Paper: Guo et al. 2016, Dynamic Network Surgery for Efficient DNNs, arXiv 1608.04493, eq. 3. With
    base = mean(|w|) + s * std(|w|), taken when it first acts and saved, the mask turns 0 where |w| < base *
    `low_thresh_mult` and 1 where |w| >= base * `hi_thresh_mult`. As in Distiller s may grow with time, by the factor
    1 + (epochs since the policy began) * `sensitivity_multiplier`.

    When to use: long training, when early decisions may be wrong. Weights come back only if they keep learning while
    masked: give the policy `mask_on_forward_only`, `use_double_copies` and, for its end, `keep_mask`, all true.

    Sample:
        pruners:
          surgery:
            class: SplicingPruner
            sensitivities: {'conv*.weight': 0.1}
            low_thresh_mult: 0.9
            hi_thresh_mult: 1.1

    Args:
        sensitivities: weight selector -> standard deviations above the mean, >= 0.
        low_thresh_mult: of the base, >= 0, at most `hi_thresh_mult`.
        hi_thresh_mult: of the base, >= 0.
        sensitivity_multiplier: growth of the sensitivity, a fraction per epoch, >= 0.

    Raises:
        ValueError: the low threshold is above the high one.
    """

    def __init__(
        self,
        sensitivities: dict[WeightSelector, NotNegative],
        low_thresh_mult: NotNegative,
        hi_thresh_mult: NotNegative,
        sensitivity_multiplier: NotNegative = 0.0,
    ) -> None:
        if low_thresh_mult > hi_thresh_mult:
            raise ValueError(f"low_thresh_mult {low_thresh_mult} must not be above hi_thresh_mult {hi_thresh_mult}")
        self.sensitivities = dict(sensitivities)
        self.weights = list(sensitivities)
        self.low, self.high, self.growth = low_thresh_mult, hi_thresh_mult, sensitivity_multiplier
        self.moments: dict[str, list[float]] = {}

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """The mask that each weight has, with what fell switched off and what rose switched on."""
        grown = 1.0 + (ctx.epoch - window.first) * self.growth
        masks = {}
        for name, sensitivity in self.sensitivities.items():
            size = weights[name].abs()
            mean, deviation = self.moments.setdefault(name, [float(size.mean()), float(size.std())])
            base = mean + deviation * sensitivity * grown
            before = ctx.masks[name].mask
            kept = torch.ones_like(size, dtype=torch.bool) if before is None else before
            masks[name] = (kept & (size >= base * self.low)) | (size >= base * self.high)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Mean and deviation of each weight when it first acted."""
        return {"moments": {name: list(values) for name, values in self.moments.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.moments = {name: list(values) for name, values in state["moments"].items()}

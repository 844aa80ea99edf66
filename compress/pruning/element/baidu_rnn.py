"""A threshold that ramps up: `BaiduRNNPruner`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.pruning.base import Pruner, Sparsity
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors


@PRUNERS.register
class BaiduRNNPruner(Pruner):
    """Prunes |w| <= eps, where eps rises with time, first slowly and from a ramp epoch on faster.

    Paper: Narang et al. 2017, Exploring Sparsity in Recurrent Neural Networks, arXiv 1704.05119, section 3 and
    algorithm 1, with epochs for iterations as in Distiller. Of a policy from epoch a to b (exclusive) every f epochs,
    with the ramp at r = a + `ramp_epoch_offset`, or at the absolute epoch `ramp_epoch`, which may lie before a:

        slope = 2 q f / (2 (r - a) + 3 (b - r))
        eps   = slope (e - a + 1) / f                                            before r
        eps   = slope (r - a + 1 + ramp_slope_mult (e - r + 1)) / f              from r on

    When to use: recurrent networks; q is the 90th percentile of |w| of the same network trained densely.

    Sample:
        pruners:
          rnn_pruner:
            class: BaiduRNNPruner
            q: 0.02
            ramp_epoch_offset: 1
            ramp_slope_mult: 2
            weights: ['fc.weight']

    Args:
        q: the magnitude that ends up as the threshold, > 0.
        ramp_slope_mult: how much steeper it is from the ramp on, > 0.
        weights: selectors of the weights to prune.
        ramp_epoch_offset: epochs from the policy's first to the ramp, >= 0.
        ramp_epoch: the ramp as an epoch of the run, as Distiller's schedules of 2018 have it; one of the two is given.
        initial_sparsity: written in schedules of 2018; as there, it has no effect but must be below the final one.
        final_sparsity: the same; how sparse the weights become is up to `q`.

    Raises:
        ValueError: not exactly one of `ramp_epoch_offset` and `ramp_epoch`, or final sparsity not above initial.
    """

    def __init__(
        self,
        q: Annotated[float, Field(gt=0.0)],
        ramp_slope_mult: Annotated[float, Field(gt=0.0)],
        weights: WeightSelectors,
        ramp_epoch_offset: Annotated[int, Field(ge=0)] | None = None,
        ramp_epoch: Annotated[int, Field(ge=0)] | None = None,
        initial_sparsity: Sparsity | None = None,
        final_sparsity: Sparsity | None = None,
    ) -> None:
        if (ramp_epoch_offset is None) is (ramp_epoch is None):
            raise ValueError("give ramp_epoch_offset (from the policy's first epoch on) or ramp_epoch, not both")
        if None not in (initial_sparsity, final_sparsity) and final_sparsity <= initial_sparsity:  # type: ignore[operator]
            raise ValueError(f"final_sparsity {final_sparsity} must be above initial_sparsity {initial_sparsity}")
        self.q = q
        self.ramp_epoch_offset = ramp_epoch_offset
        self.ramp_epoch = ramp_epoch
        self.ramp_slope_mult = ramp_slope_mult
        self.weights = weights

    def threshold(self, epoch: int, window: EpochWindow) -> float:
        """eps at that epoch.

        Raises:
            ValueError: the ramp lies so far outside the window that the slope or the first threshold is not positive.
        """
        start, step = window.first, window.frequency
        ramp = start + self.ramp_epoch_offset if self.ramp_epoch_offset is not None else self.ramp_epoch
        assert ramp is not None
        first = ramp - start + 1 + self.ramp_slope_mult * (start - ramp + 1)
        if ramp < start and first <= 0:
            raise ValueError(f"ramp_epoch {ramp} lies too far before {window}: the first threshold is not positive")
        length = 2 * (ramp - start) + 3 * (window.ending_epoch - ramp)
        if length <= 0:
            raise ValueError(f"the ramp, epoch {ramp}, lies too far behind the end of {window}")
        slope = 2 * self.q * step / length
        if epoch < ramp:
            return slope * (epoch - start + 1) / step
        return slope * (ramp - start + 1 + self.ramp_slope_mult * (epoch - ramp + 1)) / step

    def check_window(self, window: EpochWindow) -> None:
        """The ramp must lie in the window, or near it."""
        self.threshold(window.first, window)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Keeps |w| > eps."""
        threshold = self.threshold(ctx.epoch, window)
        return {name: weights[name].abs() > threshold for name in self.weights}

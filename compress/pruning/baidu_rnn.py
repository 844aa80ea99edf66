"""A threshold that ramps up: `BaiduRNNPruner`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors
from compress.window import EpochWindow


@PRUNERS.register
class BaiduRNNPruner(Pruner):
    """Prunes |w| <= eps, where eps rises with time, first slowly and from a ramp epoch on faster.

    Paper: Narang et al. 2017, Exploring Sparsity in Recurrent Neural Networks, arXiv 1704.05119, section 3 and
    algorithm 1, with epochs for iterations as in Distiller. Of a policy from epoch a to b (exclusive) every f epochs,
    with the ramp at r = a + `ramp_epoch_offset`:

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
        ramp_epoch_offset: epochs from the policy's first to the ramp, >= 0.
        ramp_slope_mult: how much steeper it is from then on, > 0.
        weights: selectors of the weights to prune.
    """

    def __init__(
        self,
        q: Annotated[float, Field(gt=0.0)],
        ramp_epoch_offset: Annotated[int, Field(ge=0)],
        ramp_slope_mult: Annotated[float, Field(gt=0.0)],
        weights: WeightSelectors,
    ) -> None:
        self.q = q
        self.ramp_epoch_offset = ramp_epoch_offset
        self.ramp_slope_mult = ramp_slope_mult
        self.weights = weights

    def threshold(self, epoch: int, window: EpochWindow) -> float:
        """eps at that epoch.

        Raises:
            ValueError: the ramp lies so far behind the window's end that the slope would not be positive.
        """
        start, ramp, step = window.first, window.first + self.ramp_epoch_offset, window.frequency
        length = 2 * (ramp - start) + 3 * (window.ending_epoch - ramp)
        if length <= 0:
            raise ValueError(f"ramp_epoch_offset {self.ramp_epoch_offset} lies too far behind the end of {window}")
        slope = 2 * self.q * step / length
        if epoch < ramp:
            return slope * (epoch - start + 1) / step
        return slope * (ramp - start + 1 + self.ramp_slope_mult * (epoch - ramp + 1)) / step

    def check_window(self, window: EpochWindow) -> None:
        """The ramp must not lie far behind the window's end."""
        self.threshold(window.first, window)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Keeps |w| > eps."""
        threshold = self.threshold(ctx.epoch, window)
        return {name: weights[name].abs() > threshold for name in self.weights}

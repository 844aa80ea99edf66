"""Pruners by magnitude to a stated fraction of zeros: `SparsityLevelParameterPruner`, `AutomatedGradualPruner`.

Element-wise pruning with an exact number of zeros in each weight.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.criteria import level_masks
from compress.epoch_window import EpochWindow
from compress.levels import AgpLevel, LevelArgument, as_level
from compress.pruning.base import Pruner
from compress.registry import PRUNERS
from compress.selectors import WeightSelector, WeightSelectors


@PRUNERS.register
class SparsityLevelParameterPruner(Pruner):
    """Prunes each weight to its own fixed fraction of zeros, smallest magnitudes first.

    Paper: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv 1506.02626,
    with a level in place of a threshold. The number of zeros in a weight of n elements is round(level * n)
    exactly, also when magnitudes tie. A policy's `levels` argument replaces the levels.

    When to use: a known level for each layer, from a sensitivity analysis; one-shot pruning before fine-tuning.

    Sample:
        pruners:
          level_pruner:
            class: SparsityLevelParameterPruner
            levels: {'*.weight': 0.5}

    Args:
        levels: weight selector -> fraction of zeros, [0, 1], or a level in place (`compress/levels.py`); `*` stands
            for every parameter not named otherwise.
    """

    def __init__(self, levels: dict[WeightSelector, LevelArgument]) -> None:
        self.levels = {name: as_level(level) for name, level in levels.items()}
        self.weights = list(levels)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """A mask with exactly round(level * n) zeros for each weight."""
        return level_masks(weights, self.plan(ctx.epoch, window))

    def override_levels(self, levels: Any) -> None:
        """Replaces the levels of the weights named."""
        self.levels.update({name: as_level(level) for name, level in levels.items() if name in self.levels})

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The levels of that epoch."""
        return {name: level.at(epoch, window) for name, level in self.levels.items()}


@PRUNERS.register
class AutomatedGradualPruner(Pruner):
    """Raises each weight's fraction of zeros along a cubic from the first to the last firing epoch (AGP).

    Paper: Zhu & Gupta 2017, To prune, or not to prune, arXiv 1710.01878, eq. 1:
    s = s_f + (s_i - s_f) * (1 - (t - t_0) / (n dt))^3, where n dt is the distance to the last firing epoch, which
    therefore reaches `final_sparsity` exactly. Zeros in a weight of n elements: round(s * n) exactly.

    When to use: the default. It needs no thresholds, and the network recovers while sparsity grows.

    Sample:
        pruners:
          agp_pruner:
            class: AutomatedGradualPruner
            initial_sparsity: 0.05
            final_sparsity: 0.8
            weights: ['*.weight']

    Args:
        initial_sparsity: fraction of zeros at the first firing epoch, [0, 1).
        final_sparsity: fraction of zeros at the last firing epoch, (0, 1], above `initial_sparsity`.
        weights: selectors of the weights to prune.

    Raises:
        ValueError: final sparsity is not above initial.
    """

    def __init__(
        self,
        initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)],
        final_sparsity: Annotated[float, Field(gt=0.0, le=1.0)],
        weights: WeightSelectors,
    ) -> None:
        self.level = AgpLevel(initial_sparsity, final_sparsity)
        self.weights = weights

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """A mask with exactly round(s * n) zeros for each weight, s of this epoch."""
        return level_masks(weights, self.plan(ctx.epoch, window))

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The cubic level, the same for each weight."""
        return dict.fromkeys(self.weights, self.level.at(epoch, window))

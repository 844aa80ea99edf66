"""Filters ranked by weights alone, or by chance: FPGM, random, Bernoulli.

Pruners of whole filters that need no data.
"""

import torch
from torch import Tensor

from compress.context import StepContext
from compress.criteria import geometric_median_distances
from compress.epoch_window import EpochWindow
from compress.groups import FilterGroup, Tile, as_groups, group_count
from compress.levels import as_level
from compress.pruning.agp_names import with_agp
from compress.pruning.base import LevelArgument
from compress.pruning.structure import GroupDependency, MaxSparsity, RoundTo, StructurePruner, Target
from compress.selectors import WeightSelectors


class FilterPruner(StructurePruner):
    """The constructor that pruners of whole filters share."""

    def __init__(
        self,
        weights: WeightSelectors,
        desired_sparsity: LevelArgument,
        group_type: FilterGroup = "Filters",
        group_dependency: GroupDependency | None = None,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity = 1.0,
    ) -> None:
        level = as_level(desired_sparsity)
        targets = {name: Target(level, group_type) for name in weights}
        super().__init__(targets, group_dependency, round_to=round_to, max_sparsity=max_sparsity)


@with_agp
class FPGMRankedFilterPruner(FilterPruner):
    """Prunes the filters that the others can best replace: those nearest to the geometric median of all.

    Paper: He et al. 2019, Filter Pruning via Geometric Median, arXiv 1811.00250, eq. 4: the score of a filter is the
    sum of its Euclidean distances to all filters of its layer; the lowest go. Of n filters floor(s * n) go.

    When to use: when norms of filters hardly differ, so that "small" means little.

    Sample:
        pruners:
          fpgm:
            class: FPGMRankedFilterPruner
            desired_sparsity: 0.4
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of filters to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Filters` or `3D`, which mean the same.
        group_dependency: `Leader` ranks the first weight and prunes the same filters of the others; None lets
            weights that the network couples vote together, and ranks the others each.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].
    """

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """Sum of the distances to all filters."""
        return geometric_median_distances(as_groups(weight.detach(), tile))


@with_agp
class RandomRankedFilterPruner(FilterPruner):
    """Prunes random filters: floor(s * n) of n.

    Source: Distiller's class of this name; the control of Mittal et al. 2018, Recovering from Random Pruning,
    arXiv 1801.10447. Each call ranks anew, from the scheduler's own generator.

    When to use: as the control that any cleverer ranking must beat.

    Sample:
        pruners:
          control:
            class: RandomRankedFilterPruner
            desired_sparsity: 0.4
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of filters to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Filters` or `3D`, which mean the same.
        group_dependency: `Leader` draws for the first weight and prunes the same filters of the others.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].
    """

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """Random numbers."""
        return torch.rand(group_count(weight.shape, tile), generator=ctx.generator).to(weight.device)


@with_agp
class BernoulliFilterPruner(FilterPruner):
    """Keeps each filter with probability 1 - s, whatever the others do: drop-filter.

    Paper: Pan et al. 2018, DropFilter, arXiv 1811.06783; arguments as Distiller has them. How many go is chance; at
    least one stays unless s is 1. The mask is 0/1; the division of the others by the kept fraction, which Distiller
    puts into the mask, is applied in forward passes only and only with `use_double_copies`, for otherwise it would
    compound from minibatch to minibatch.

    When to use: as a regularizer, with `mini_batch_pruning_frequency` and `discard_masks_at_minibatch_end`; or take
    `DropFilterRegularizer`, which needs no such arguments.

    Sample:
        pruners:
          drop_filter:
            class: BernoulliFilterPruner
            desired_sparsity: 0.1
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: probability that a filter goes, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Filters` or `3D`, which mean the same.
        group_dependency: `Leader` draws for the first weight and prunes the same filters of the others.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].
    """

    combine = "first"

    def keep(self, scores: Tensor, level: float) -> Tensor:
        """Those whose draw reaches the level; the highest stays in any case."""
        keep = scores >= level
        if level < 1.0:
            keep[scores.argmax()] = True
        return keep

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """Random numbers in [0, 1)."""
        return torch.rand(group_count(weight.shape, tile), generator=ctx.generator).to(weight.device)

    def forward_scale(self, name: str, mask: Tensor) -> float:
        """1 / the kept fraction of filters."""
        alive = mask.movedim(self.dims[name] or 0, 0).flatten(1).any(dim=1)
        kept = int(torch.count_nonzero(alive)) / len(alive)
        return 1.0 / kept if kept else 1.0

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """Nothing: chance decides."""
        return {}

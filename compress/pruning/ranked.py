"""Structures ranked by their norm: `L1RankedStructureParameterPruner`, `L2Ranked...`, `RandomLevel...`."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.groups import Tile, group_norms, group_size
from compress.levels import ConstantLevel, as_level
from compress.pruning.agp_names import with_agp
from compress.pruning.base import LevelArgument, Sparsity
from compress.pruning.structure import (
    GroupDependency,
    MaxSparsity,
    RankedGroup,
    Rounding,
    RoundTo,
    StructurePruner,
    Target,
)
from compress.registry import PRUNERS
from compress.selectors import AsPair, WeightSelector, WeightSelectors

RankedRegime = Annotated[tuple[Sparsity, RankedGroup], AsPair]


BlockArguments = dict[Literal["block_shape"], list[int]]  # `kwargs` as Distiller's schedules write it


class NormRankedPruner(StructurePruner):
    """Ranks groups by their length-normalised Lp norm; subclasses set `order`."""

    order: float

    def __init__(
        self,
        weights: WeightSelectors | None = None,
        desired_sparsity: LevelArgument | None = None,
        group_type: RankedGroup = "Filters",
        group_dependency: GroupDependency | None = None,
        block_shape: list[int] | None = None,
        kwargs: BlockArguments | None = None,
        group_size: Annotated[int, Field(ge=1)] = 1,
        noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0,
        rounding: Rounding = "floor",
        reg_regims: dict[WeightSelector, RankedRegime] | None = None,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity = 1.0,
    ) -> None:
        blocks = kwargs.get("block_shape") if kwargs and block_shape is None else block_shape
        targets = _targets(weights, desired_sparsity, group_type, reg_regims)
        super().__init__(targets, group_dependency, blocks, group_size, rounding, round_to, max_sparsity)
        self.noise = noise

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """The norm of each group over its length."""
        scores = group_norms(weight.detach(), tile, self.order) / group_size(tile)
        if self.noise and float(torch.rand((), generator=ctx.generator)) < self.noise:
            scores = scores * torch.randn(scores.shape, generator=ctx.generator).to(scores)
        return scores


def _targets(
    weights: list[str] | None,
    desired_sparsity: LevelArgument | None,
    group_type: str,
    reg_regims: Mapping[str, tuple[float, str]] | None,
) -> dict[str, Target]:
    """One form of arguments or the other -> what is asked of each weight."""
    if (reg_regims is None) == (weights is None and desired_sparsity is None):
        raise ValueError("give either weights and desired_sparsity (and group_type), or reg_regims alone")
    if reg_regims is not None:
        return {name: Target(ConstantLevel(level), group) for name, (level, group) in reg_regims.items()}
    if weights is None or desired_sparsity is None:
        raise ValueError("weights and desired_sparsity are both needed (or reg_regims: {name: [0.4, '3D']} instead)")
    level = as_level(desired_sparsity)
    return {name: Target(level, group_type) for name in weights}


@with_agp
class L1RankedStructureParameterPruner(NormRankedPruner):
    """Prunes the groups (filters, channels, ...) with the smallest mean absolute value.

    Paper: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 3.1. Of n groups
    floor(s * n) go, rounded down to a multiple of `group_size`; all of them only for s = 1. Both generations of
    Distiller's arguments are understood: `group_type`, `desired_sparsity` and `weights`, or `reg_regims`. As there,
    `Rows` of a linear layer are its input features.

    When to use: the default for structured pruning; then thin the network, so that it is really smaller.

    Sample:
        pruners:
          filter_pruner:
            class: L1RankedStructureParameterPruner
            group_type: Filters
            desired_sparsity: 0.5
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of groups to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: kind of group: `Filters` (the same as `3D`), `Channels`, `Rows`, `Cols`, `2D`, `Blocks`; of an
            attention's projection, `Filters` are its heads and `HeadDims` the same positions of every head.
        group_dependency: `Leader` ranks the first weight and prunes the same groups of the others; None lets
            weights that the network couples vote together, and ranks the others each.
        block_shape: of `Blocks`: filters, channels, height, width.
        kwargs: `{block_shape: [..]}`, Distiller's way to write it.
        group_size: the number of pruned groups is a multiple of it, >= 1.
        noise: probability that this time the norms are multiplied by normal random numbers, [0, 1].
        rounding: of s * n: `floor`, `nearest` or `ceil`.
        reg_regims: weight selector -> [fraction, kind of group]; instead of weights, desired_sparsity and group_type.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].

    Raises:
        ValueError: neither form of arguments is complete, or both are given.
    """

    order = 1


@with_agp
class L2RankedStructureParameterPruner(NormRankedPruner):
    """Prunes the groups (filters, channels, ...) with the smallest L2 norm.

    Paper: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 4.5 compares the norms.
    Counting, rounding and both generations of arguments are as in `L1RankedStructureParameterPruner`.

    When to use: as the L1 form; it pays more heed to single large weights.

    Sample:
        pruners:
          filter_pruner:
            class: L2RankedStructureParameterPruner
            group_type: Channels
            desired_sparsity: 0.5
            weights: ['conv2.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of groups to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: kind of group: `Filters` (the same as `3D`), `Channels`, `Rows`, `Cols`, `2D`, `Blocks`; of an
            attention's projection, `Filters` are its heads and `HeadDims` the same positions of every head.
        group_dependency: `Leader` ranks the first weight and prunes the same groups of the others; None lets
            weights that the network couples vote together, and ranks the others each.
        block_shape: of `Blocks`: filters, channels, height, width.
        kwargs: `{block_shape: [..]}`, Distiller's way to write it.
        group_size: the number of pruned groups is a multiple of it, >= 1.
        noise: probability that this time the norms are multiplied by normal random numbers, [0, 1].
        rounding: of s * n: `floor`, `nearest` or `ceil`.
        reg_regims: weight selector -> [fraction, kind of group]; instead of weights, desired_sparsity and group_type.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].

    Raises:
        ValueError: neither form of arguments is complete, or both are given.
    """

    order = 2


@PRUNERS.register
class RandomLevelStructureParameterPruner(NormRankedPruner):
    """Draws a fraction anew each time, then prunes so many groups by their L1 norm.

    Source: Distiller's class of this name, for regularization in the manner of drop-filter; the ranking is that of Li
    et al. 2017, arXiv 1608.08710. One fraction is drawn for each weight and call, from the scheduler's own generator.

    When to use: as structured dropout that prefers weak filters: with `mini_batch_pruning_frequency`,
    `discard_masks_at_minibatch_end` and `use_double_copies`.

    Sample:
        pruners:
          random_filter_pruner:
            class: RandomLevelStructureParameterPruner
            group_type: Filters
            sparsity_range: [0.1, 0.2]
            weights: ['conv*.weight']

    Args:
        group_type: kind of group: `Filters` (the same as `3D`), `Channels`, `Rows`, `Cols`, `2D`, `Blocks`; of an
            attention's projection, `Filters` are its heads and `HeadDims` the same positions of every head.
        sparsity_range: smallest and largest fraction of groups, each in [0, 1].
        weights: selectors of the weights to prune.
        group_dependency: `Leader` draws and ranks for the first weight only.
        block_shape: of `Blocks`: filters, channels, height, width.
        kwargs: `{block_shape: [..]}`, Distiller's way to write it.

    Raises:
        ValueError: the range is reversed.
    """

    order = 1
    combine = "first"

    def __init__(
        self,
        group_type: RankedGroup,
        sparsity_range: Annotated[tuple[Sparsity, Sparsity], AsPair],
        weights: WeightSelectors,
        group_dependency: GroupDependency | None = None,
        block_shape: list[int] | None = None,
        kwargs: BlockArguments | None = None,
    ) -> None:
        low, high = sparsity_range
        if low > high:
            raise ValueError(f"sparsity_range [{low}, {high}] is reversed")
        super().__init__(weights, low, group_type, group_dependency, block_shape, kwargs)
        self.sparsity_range = sparsity_range

    def fraction(self, name: str, ctx: StepContext, window: EpochWindow) -> float:
        """A draw from the range."""
        low, high = self.sparsity_range
        return low + (high - low) * float(torch.rand((), generator=ctx.generator))

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """Nothing: chance decides."""
        return {}

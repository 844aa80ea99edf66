"""Structured pruners: the bases that rank whole groups, the `_AGP` names, and `StructureParameterPruner`.

How many groups go, `group_dependency`, and a threshold on groups.
"""

import contextlib
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import ThresholdCriteria, group_magnitudes, mask_smallest
from compress.epoch_window import EpochWindow
from compress.errors import UserError, some
from compress.graph.channels import Place
from compress.groups import COUPLED, GroupName, Tile, Tilings, group_count, spread
from compress.levels import Level
from compress.pruning.base import Pruner
from compress.pruning.coupled_masks import Combine, agreed_masks, channel_dim, graph_for, known, ranked_masks
from compress.pruning.element.threshold import Threshold
from compress.registry import PRUNERS
from compress.selectors import AsPair, WeightSelector, canonical_parameters
from compress.thinning.expected import Demand
from compress.thinning.ranking import Vote

Rounding = Literal["floor", "nearest", "ceil"]
GroupDependency = Literal["Leader"]
WITHIN_HEADS = "HeadDims"
REMOVABLE = ("Filters", "3D", "Channels", WITHIN_HEADS)
RankedGroup = Literal["Filters", "3D", "Channels", "Rows", "Cols", "2D", "Blocks", "HeadDims"]
RoundTo = Annotated[int, Field(ge=1)]
MaxSparsity = Annotated[float, Field(gt=0.0, le=1.0)]


@dataclass(frozen=True)
class Target:
    """What is asked of one weight.

    Attributes:
        level: fraction of its groups to prune.
        group: kind of group.
    """

    level: Level
    group: str


def groups_to_prune(fraction: float, count: int, multiple: int = 1, rounding: Rounding = "floor") -> int:
    """How many of `count` groups a fraction prunes.

    fraction * count is rounded (floor as in Distiller; 1e-9 is added first, so that 0.29 * 100 is 29), then down to a
    multiple of `multiple`. All of them go only for a fraction of 1.0.
    """
    if fraction >= 1.0:
        return count
    wanted = fraction * count
    rounded = {
        "floor": math.floor(wanted + 1e-9),
        "nearest": math.floor(wanted + 0.5),
        "ceil": math.ceil(wanted - 1e-9),
    }
    zeros = min(rounded[rounding], count - 1)
    return zeros // multiple * multiple


class StructurePruner(Pruner):
    """Ranks the groups of each weight, and prunes the lowest.

    Filters and channels go with everything that the network's graph couples to them: the named weights of a coupled
    group vote (the mean of their normalised scores), the others follow. Rows, kernels and blocks go alone. Of an
    attention's projection, `Filters` are whole heads, and `HeadDims` the same position of every head.

    Args:
        targets: weight -> what is asked of it, in order.
        group_dependency: `Leader` ranks the first weight only, and prunes the same groups of all others.
        block_shape: of `Blocks`.
        group_size: the number of pruned groups is rounded down to a multiple of it.
        rounding: of fraction * groups.
        round_to: what is left of a group is rounded up to a multiple of it.
        max_sparsity: at most this fraction of the groups goes, whatever the level.

    Attributes:
        combine: whose scores decide in a coupled group: `mean` of all votes, or the `first` one.
        dims: weight -> the dimension along which its groups lie; None for rows, kernels and blocks.
        counts: weight -> the number of its groups before training.
    """

    combine: Combine = "mean"

    def __init__(
        self,
        targets: Mapping[str, Target],
        group_dependency: GroupDependency | None = None,
        block_shape: list[int] | None = None,
        group_size: int = 1,
        rounding: Rounding = "floor",
        round_to: int = 1,
        max_sparsity: float = 1.0,
    ) -> None:
        self.targets = dict(targets)
        self.weights = list(targets)
        self.group_dependency = group_dependency
        self.group_size = group_size
        self.rounding = rounding
        self.round_to = round_to
        self.max_sparsity = max_sparsity
        if group_dependency == "Leader":
            self.combine = "first"
        self.dims: dict[str, int | None] = {}
        self.counts: dict[str, int] = {}
        self._tilings = Tilings(block_shape)

    @abstractmethod
    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """Importance of each group: shape (groups,); the lowest go."""

    def keep(self, scores: Tensor, level: float) -> Tensor:
        """Which groups stay: bool tensor of shape (groups,)."""
        return mask_smallest(scores, self.zeros_of(level, len(scores)))

    def zeros_of(self, level: float, count: int) -> int:
        """How many of `count` groups a level prunes, after all rounding."""
        zeros = groups_to_prune(min(level, self.max_sparsity), count, self.group_size, self.rounding)
        left = math.ceil((count - zeros) / self.round_to) * self.round_to
        return max(0, count - left)

    def note_sizes(self, model: nn.Module) -> None:
        """Notes how many groups each weight has."""
        parameters = canonical_parameters(model)
        for name in self.weights:
            with contextlib.suppress(ValueError, KeyError):  # `faults` reports them
                tile = self.tile(name, parameters[name], model)
                self.counts[name] = group_count(parameters[name].shape, tile)
                self.dims[name] = channel_dim(self.kind(name), parameters[name].shape, tile)

    def realised(self, name: str, level: float) -> float:
        """The fraction of whole groups."""
        count = self.counts.get(name)
        return self.zeros_of(level, count) / count if count else level

    def demand(self, levels: Mapping[str, float]) -> Demand | None:
        """A vote for each weight that loses filters or channels."""
        places = [(name, self.dims.get(name), level) for name, level in levels.items()]
        within = {name: self.targets[name].group == WITHIN_HEADS for name in levels}
        none = torch.empty(0)
        return Demand(
            [Vote(name, d, none, lev, within[name]) for name, d, lev in places if d is not None], self.zeros_of
        )

    def leaves(self, name: str) -> bool:
        """Filters and channels do."""
        return self.targets[name].group in REMOVABLE

    def fraction(self, name: str, ctx: StepContext, window: EpochWindow) -> float:
        """Which part of the weight's groups to prune now."""
        return self.targets[name].level.at(ctx.epoch, window)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Masks that switch whole groups off, and what is coupled to them."""
        tiles = {name: self.tile(name, weights[name], ctx.model) for name in self.weights}
        self.dims = {name: channel_dim(self.kind(name), weights[name].shape, tiles[name]) for name in self.weights}
        graph = graph_for(ctx, [(name, dim) for name, dim in self.dims.items() if dim is not None])
        found: dict[str, Tensor] = {}
        votes: list[Vote] = []
        scores, level = torch.empty(0), 0.0
        for place, (name, tile) in enumerate(tiles.items()):
            if place == 0 or self.group_dependency is None:
                scores, level = self.scores(name, weights[name], tile, ctx), self.fraction(name, ctx, window)
            dim = self.dims[name]
            within = self.targets[name].group == WITHIN_HEADS
            if graph is not None and dim is not None and known(graph, [(name, dim)]):
                votes.append(Vote(name, dim, scores, level, within))
            elif within:
                raise UserError(f"{name}: HeadDims are found by the network's graph, and there is none that knows it")
            else:
                found[name] = spread(self.keep(scores, level), weights[name].shape, tile)
        if graph is not None and votes:
            found.update(ranked_masks(ctx, graph, votes, self.keep, self.combine))
        return found

    def tile(self, name: str, weight: Tensor, model: nn.Module) -> Tile:
        """The tile of the weight's groups."""
        return self._tilings.tile(model, name, weight.shape, self.kind(name))

    def kind(self, name: str) -> str:
        """The weight's kind of group, in the words of `compress/groups.py`."""
        return ranked_group(self.targets[name].group)

    def goes_alone(self, name: str) -> bool:
        """Rows, columns, kernels and blocks."""
        return self.kind(name) not in COUPLED

    def stands_beside(self, name: str) -> str | None:
        """Positions within heads: whole heads may go beside them."""
        return WITHIN_HEADS if self.targets[name].group == WITHIN_HEADS else None

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """Fraction of groups asked for, by weight, before rounding."""
        return {name: target.level.at(epoch, window) for name, target in self.targets.items()}

    def faults(self, model: nn.Module) -> list[str]:
        """Weights without such groups, or with another number of groups than their leader."""
        found, counts = [], {}
        parameters = canonical_parameters(model)
        vectors = [name for name in self.weights if parameters[name].dim() < 2]
        if len(vectors) > 1:
            found.append(
                f"{some(vectors)} are vectors, as of norms, without groups of this kind; name the weights of layers: "
                f"{some([name for name in self.weights if name not in vectors]) or 'none of those given is one'}"
            )
        for name in [name for name in self.weights if len(vectors) < 2 or name not in vectors]:
            try:
                counts[name] = group_count(parameters[name].shape, self.tile(name, parameters[name], model))
            except ValueError as e:
                found.append(str(e))
        leader = counts.get(self.weights[0]) if self.weights else None
        for name, count in counts.items() if self.group_dependency == "Leader" else ():
            if leader is not None and count != leader:
                found.append(f"{name!r} has {count} groups, its leader {self.weights[0]!r} has {leader}")
        return found


def ranked_group(group: str) -> str:
    """The kind of tile behind `group_type`.

    Ranked pruners follow Distiller, for which the rows of a linear layer are those of the matrix that its input is
    multiplied with, the transpose of what PyTorch stores: one row is one input feature.
    """
    return {"Rows": "Cols", "Cols": "Rows", WITHIN_HEADS: "Filters"}.get(group, group)


ThresholdRegime = Annotated[tuple[Threshold, GroupName], AsPair]


@PRUNERS.register
class StructureParameterPruner(Pruner):
    """Prunes groups whose largest or mean absolute value is at or below a threshold.

    Paper: Wen et al. 2016, Learning Structured Sparsity in Deep Neural Networks, arXiv 1608.03665, whose regularizer
    makes such groups; arguments as Distiller has them. Rows and columns are those of the stored matrix.

    When to use: after `GroupLassoRegularizer`, with its strength as the threshold.

    Sample:
        pruners:
          structure:
            class: StructureParameterPruner
            reg_regims:
              'conv*.weight': [0.01, Filters]
            threshold_criteria: Max

    Args:
        reg_regims: weight selector -> [threshold >= 0, kind of group].
        threshold_criteria: `Max` or `Mean_Abs`, what is compared with the threshold.
        block_shape: of `Blocks`: filters, channels, height, width.
    """

    def __init__(
        self,
        reg_regims: dict[WeightSelector, ThresholdRegime],
        threshold_criteria: ThresholdCriteria,
        block_shape: list[int] | None = None,
    ) -> None:
        self.regimes = dict(reg_regims)
        self.weights = list(reg_regims)
        self.threshold_criteria = threshold_criteria
        self._tilings = Tilings(block_shape)

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Keeps the groups above the threshold; a coupled unit goes when all weights named here agree."""
        found: dict[str, Tensor] = {}
        kept: dict[Place, Tensor] = {}
        scores: dict[Place, Tensor] = {}
        for name, (threshold, group) in self.regimes.items():
            weight = weights[name]
            tile = self._tilings.tile(ctx.model, name, weight.shape, group)
            sizes = group_magnitudes(weight, tile, self.threshold_criteria)
            keep = sizes > threshold
            dim = channel_dim(group, weight.shape, tile)
            if dim is None:
                found[name] = spread(keep, weight.shape, tile)
            else:
                kept[name, dim] = keep
                scores[name, dim] = sizes
        thresholds = {threshold for threshold, _ in self.regimes.values()}
        reason = (scores, thresholds.pop()) if len(thresholds) == 1 else (None, None)  # several cannot be shown as one
        return {**found, **agreed_masks(ctx, kept, *reason)}

    def goes_alone(self, name: str) -> bool:
        """Rows, columns, kernels and blocks."""
        return self.regimes[name][1] not in COUPLED

    def faults(self, model: nn.Module) -> list[str]:
        """Weights that have no such groups."""
        return self._tilings.faults(model, {name: group for name, (_, group) in self.regimes.items()})

"""Sparsity of whole groups: `GroupLassoRegularizer`, `GroupVarianceRegularizer`.

Terms over groups of elements.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from compress.context import StepContext
from compress.criteria import ThresholdCriteria, groups_above
from compress.groups import COUPLED, Tile, Tilings, group_count, group_norms, spread
from compress.parameters import widened
from compress.registry import REGULARIZERS
from compress.regularization.base import Regularizer, Strength
from compress.regularization.terms import sum_of_norms
from compress.selectors import AsPair, WeightSelector, canonical_parameters

LassoGroup = Literal["2D", "3D", "4D", "Filters", "Channels", "Rows", "Cols", "Rows+Cols", "Cols+Rows", "Channels+4D"]
LassoRegime = Annotated[tuple[Strength, LassoGroup], AsPair]
VarianceRegime = Annotated[tuple[Strength, Literal["Channels", "Filters", "3D", "Rows", "Cols"]], AsPair]


class GroupRegularizer(Regularizer):
    """What terms over groups share: `reg_regims` and the tiles of each weight."""

    def __init__(self, reg_regims: Mapping[str, tuple[float, str]]) -> None:
        self.regimes = dict(reg_regims)
        self.weights = list(reg_regims)
        self._tilings = Tilings()

    def tiles(self, name: str, weight: Tensor, model: nn.Module) -> list[Tile]:
        """The tile of each part of the weight's kind of group: `Rows+Cols` has two."""
        parts = self.regimes[name][1].split("+")
        return [self._tilings.tile(model, name, weight.shape, part) for part in parts]

    def goes_alone(self, name: str) -> bool:
        """Rows, columns and kernels."""
        return not COUPLED.union(("4D",)) & set(self.regimes[name][1].split("+"))

    def faults(self, model: nn.Module) -> list[str]:
        """Weights that have no such groups."""
        found = []
        parameters = canonical_parameters(model)
        for name in self.weights:
            try:
                self.tiles(name, parameters[name], model)
            except ValueError as e:
                found.append(str(e))
        return found


@REGULARIZERS.register
class GroupLassoRegularizer(GroupRegularizer):
    """Adds strength * sum over groups of the group's L2 norm, which switches whole groups off.

    Paper: Wen et al. 2016, Learning Structured Sparsity in Deep Neural Networks, arXiv 1608.03665, eq. 4. As in
    Distiller there is no factor for the group's size. With `threshold_criteria` a group whose largest (`Max`) or mean
    (`Mean_Abs`) absolute value is at or below the strength is zeroed after each step of the optimizer. In a combination
    such as `Rows+Cols` the terms add up, and an element goes when one of its groups goes.

    When to use: structured sparsity learned from the start, followed by thinning or `StructureParameterPruner`.

    Sample:
        regularizers:
          filters:
            class: GroupLassoRegularizer
            reg_regims:
              'conv*.weight': [0.0005, Filters]
            threshold_criteria: Max

    Args:
        reg_regims: weight selector -> [strength >= 0, kind of group].
        threshold_criteria: `Max`, `Mean_Abs`, or None to zero nothing.
    """

    def __init__(
        self, reg_regims: dict[WeightSelector, LassoRegime], threshold_criteria: ThresholdCriteria | None = None
    ) -> None:
        super().__init__(reg_regims)
        self.threshold_criteria = threshold_criteria

    def loss(self, weights: Mapping[str, Tensor], ctx: StepContext) -> Tensor | None:
        """The sum over weights and groups of strength * L2 norm."""
        terms = [
            (weights[name], strength, tile)
            for name, (strength, _) in self.regimes.items()
            for tile in self.tiles(name, weights[name], ctx.model)
        ]
        own, strengths, tiles = zip(*terms, strict=True)
        return sum_of_norms(own, strengths, tiles)

    def threshold_masks(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """Keeps the elements all of whose groups are above the strength."""
        if self.threshold_criteria is None:
            return {}
        masks = {}
        for name, (strength, _) in self.regimes.items():
            mask = torch.ones_like(weights[name], dtype=torch.bool)
            for tile in self.tiles(name, weights[name], ctx.model):
                kept = groups_above(weights[name], tile, strength, self.threshold_criteria)
                mask &= spread(kept, mask.shape, tile)
            masks[name] = mask
        return masks


@REGULARIZERS.register
class GroupVarianceRegularizer(GroupRegularizer):
    """Adds strength / variance of the groups' L2 norms: groups become unequal, so that pruning the weak costs little.

    Source: Distiller's class of this name (group variance regularization); there is no paper. The variance is the
    unbiased one, plus 1e-12, so that equal groups give a large number and not infinity. Beyond Distiller's `Channels`
    other kinds of groups may be given.

    When to use: before ranked structured pruning, where all channels look alike.

    Sample:
        regularizers:
          unequal:
            class: GroupVarianceRegularizer
            reg_regims:
              'conv*.weight': [0.001, Channels]

    Args:
        reg_regims: weight selector -> [strength >= 0, kind of group]; a weight needs two groups at least.
    """

    def __init__(self, reg_regims: dict[WeightSelector, VarianceRegime]) -> None:
        super().__init__(reg_regims)

    def loss(self, weights: Mapping[str, Tensor], ctx: StepContext) -> Tensor | None:
        """The sum over weights of strength / variance."""
        terms = []
        for name, (strength, _) in self.regimes.items():
            (tile,) = self.tiles(name, weights[name], ctx.model)
            terms.append(strength / (group_norms(widened(weights[name]), tile, 2).var() + 1e-12))
        return torch.stack(terms).sum()

    def faults(self, model: nn.Module) -> list[str]:
        """Weights without such groups, or with one only, whose variance does not exist."""
        found = super().faults(model)
        parameters = canonical_parameters(model)
        for name in self.weights if not found else []:
            (tile,) = self.tiles(name, parameters[name], model)
            count = group_count(parameters[name].shape, tile)
            if count < 2:
                number = "one group" if count else "no group"
                found.append(f"{name!r} has {number} of kind {self.regimes[name][1]!r}; a variance needs two")
        return found

"""Filters ranked by gradient times weight: `GradientRankedFilterPruner`, `TaylorRankedFilterPruner`."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.groups import FilterGroup, Tile, as_groups
from compress.parameters import widened
from compress.pruning.agp_names import with_agp
from compress.pruning.base import GradientSums, LevelArgument
from compress.pruning.filters import FilterPruner
from compress.pruning.structure import GroupDependency, MaxSparsity, RoundTo
from compress.selectors import WeightSelectors

logger = logging.getLogger("compress")


class GradientFilterPruner(FilterPruner):
    """Sums a criterion of gradient and weight over minibatches; subclasses say which."""

    def __init__(
        self,
        weights: WeightSelectors,
        desired_sparsity: LevelArgument,
        group_type: FilterGroup = "Filters",
        group_dependency: GroupDependency | None = None,
        batches: Annotated[int, Field(ge=1)] = 1,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity = 1.0,
    ) -> None:
        super().__init__(weights, desired_sparsity, group_type, group_dependency, round_to, max_sparsity)
        self.batches = batches
        self._told: set[str] = set()
        self.gathered = GradientSums()

    def begin_gathering(self) -> None:
        """Starts the sums anew."""
        self.gathered = GradientSums()

    @abstractmethod
    def criterion(self, products: Tensor) -> Tensor:
        """gradient * weight of each filter, shape (filters, elements) -> what is summed, (filters,)."""

    @torch.no_grad()
    def observe(self, parameters: Mapping[str, nn.Parameter], ctx: StepContext) -> None:
        """Adds the criterion of one minibatch."""
        for name, parameter in parameters.items():
            if parameter.grad is not None and self._is_finite(name, parameter.grad):
                tile = self.tile(name, parameter, ctx.model)
                self.gathered.add(name, self.criterion(as_groups(widened(parameter.grad) * widened(parameter), tile)))

    def _is_finite(self, name: str, gradient: Tensor) -> bool:
        finite = bool(torch.isfinite(gradient).all())
        if not finite and name not in self._told:
            self._told.add(name)
            logger.warning("pruner of %r: gradients that are not finite (NaN or infinite) do not count", name)
        return finite

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """The sums."""
        return self.gathered.of(name, weight.device)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": dict(self.gathered.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.gathered.sums = dict(state["sums"])


@with_agp
class GradientRankedFilterPruner(GradientFilterPruner):
    """Prunes the filters with the lowest sum of gradient * weight.

    Source: Distiller's class of this name; the first-order term of the loss's change when a filter goes, with its sign
    (Mozer & Smolensky 1989, Skeletonization, NIPS 1). Distiller takes the gradient of the last minibatch before the
    epoch; here it is summed over `batches` minibatches of the epoch. Of n filters floor(s * n) go.

    When to use: for Distiller's schedules; `TaylorRankedFilterPruner` is the better founded choice.

    Sample:
        pruners:
          gradient:
            class: GradientRankedFilterPruner
            desired_sparsity: 0.4
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of filters to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Filters` or `3D`, which mean the same.
        group_dependency: `Leader` ranks the first weight and prunes the same filters of the others; None lets
            weights that the network couples vote together, and ranks the others each.
        batches: minibatches to look at in each firing epoch before it masks, >= 1.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].
    """

    def criterion(self, products: Tensor) -> Tensor:
        """The sum of gradient * weight."""
        return products.sum(dim=1)


@with_agp
class TaylorRankedFilterPruner(GradientFilterPruner):
    """Prunes the filters whose removal changes the loss least, to first order: (sum of gradient * weight) squared.

    Paper: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, arXiv 1906.10771, eq. 8 for groups,
    summed over minibatches. Of n filters floor(s * n) go.

    When to use: the best single ranking that one backward pass buys; 8 batches and more make it steady.

    Sample:
        pruners:
          taylor:
            class: TaylorRankedFilterPruner
            desired_sparsity: 0.4
            weights: ['conv*.weight']
            batches: 8

    Args:
        weights: selectors of the weights to prune.
        desired_sparsity: fraction of filters to prune, [0, 1], or a level in place (`compress/levels.py`).
        group_type: `Filters` or `3D`, which mean the same.
        group_dependency: `Leader` ranks the first weight and prunes the same filters of the others; None lets
            weights that the network couples vote together, and ranks the others each.
        batches: minibatches to look at in each firing epoch before it masks, >= 1.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].
    """

    def criterion(self, products: Tensor) -> Tensor:
        """The squared sum of gradient * weight."""
        return products.sum(dim=1).square()

"""Filters ranked by what their layer's activation function lets through: APoZ, mean activation.

Statistics over `batches` minibatches, and the ranking by them.
"""

import logging
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.distributed import sum_over_ranks
from compress.errors import UserError
from compress.groups import FilterGroup, Tile, group_count
from compress.pruning.agp_names import with_agp
from compress.pruning.base import LevelArgument
from compress.pruning.filters import FilterPruner
from compress.pruning.structure import GroupDependency, MaxSparsity, RoundTo
from compress.selectors import WeightSelectors

logger = logging.getLogger("compress")


class ActivationRankedPruner(FilterPruner):
    """Sums a statistic of each channel of the activation that follows a layer; subclasses say which."""

    listens: ClassVar[bool] = True

    def __init__(
        self,
        weights: WeightSelectors,
        desired_sparsity: LevelArgument,
        group_type: FilterGroup = "Filters",
        group_dependency: GroupDependency | None = None,
        batches: Annotated[int, Field(ge=1)] = 8,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity = 1.0,
    ) -> None:
        super().__init__(weights, desired_sparsity, group_type, group_dependency, round_to, max_sparsity)
        self.batches = batches
        self._told: set[str] = set()
        self.begin_gathering()

    def begin_gathering(self) -> None:
        """Forgets the sums."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.functions: dict[str, str] = {}

    def statistic(self, activation: Tensor) -> Tensor:
        """What is summed: shape (channels, values) -> (channels,)."""
        raise NotImplementedError

    def on_activation(self, name: str, output: Tensor, function: str) -> None:
        """Adds the statistic of one call."""
        values = output.reshape(output.shape[0], -1)
        if not values.shape[1] or not bool(torch.isfinite(values).all()):
            self._leave_out(name)
            return
        added = self.statistic(values).cpu().double()
        self.sums[name] = self.sums.get(name, torch.zeros_like(added)) + added
        self.counts[name] = self.counts.get(name, 0) + values.shape[1]
        self.functions[name] = function

    def _leave_out(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            logger.warning("pruner of %r: activations that are not finite (NaN or infinite) do not count", name)

    def mean(self, name: str, tile: Tile, weight: Tensor) -> Tensor:
        """The mean statistic of each filter, over all processes.

        Raises:
            UserError: no activation function of as many channels follows the layer.
        """
        if name not in self.sums or len(self.sums[name]) != group_count(weight.shape, tile):
            raise UserError(
                f"pruner of {name!r}: no activation function was seen to follow this layer in the forward pass "
                "(it is the last layer, or the tensor is reshaped or concatenated before); "
                "leave the weight out, or rank it by its norm"
            )
        total = sum_over_ranks(torch.cat([self.sums[name], torch.tensor([float(self.counts[name])]).double()]))
        return total[:-1] / total[-1]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": dict(self.sums), "counts": dict(self.counts), "functions": dict(self.functions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.sums, self.counts, self.functions = (dict(state[key]) for key in ("sums", "counts", "functions"))


@with_agp
class ActivationAPoZRankedFilterPruner(ActivationRankedPruner):
    """Prunes the filters whose activations are zero most often (average percentage of zeros, APoZ).

    Paper: Hu et al. 2016, Network Trimming, arXiv 1607.03250, eq. 1. The zeros are counted behind the activation
    function that the layer feeds, found by following its output through the forward pass. Of n filters floor(s * n) go.

    When to use: networks with ReLU, whose dead units it finds; other activations are never exactly zero.

    Sample:
        pruners:
          trimming:
            class: ActivationAPoZRankedFilterPruner
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

    Raises:
        UserError: no activation function follows a layer, or one that is never zero.
    """

    def statistic(self, activation: Tensor) -> Tensor:
        """Values that are not zero."""
        return torch.count_nonzero(activation, dim=1)

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """1 - APoZ."""
        alive = self.mean(name, tile, weight)
        if bool((alive == 1.0).all()):
            raise UserError(
                f"pruner of {name!r}: the activation behind it ({self.functions[name]}) was never zero, so the "
                "percentage of zeros cannot rank its filters; take ActivationMeanRankedFilterPruner"
            )
        return alive.to(weight.device)


@with_agp
class ActivationMeanRankedFilterPruner(ActivationRankedPruner):
    """Prunes the filters with the lowest mean activation.

    Paper: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv 1611.06440, section 2.2. Distiller's class of this name prunes the strongest channels, by an inherited order;
    here the weakest go, as its documentation says. Of n filters floor(s * n) go.

    When to use: a data-driven ranking for any activation function.

    Sample:
        pruners:
          weakest:
            class: ActivationMeanRankedFilterPruner
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

    Raises:
        UserError: no activation function follows a layer.
    """

    def statistic(self, activation: Tensor) -> Tensor:
        """Their sum."""
        return activation.float().sum(dim=1)

    def scores(self, name: str, weight: Tensor, tile: Tile, ctx: StepContext) -> Tensor:
        """The mean activation."""
        return self.mean(name, tile, weight).to(weight.device)

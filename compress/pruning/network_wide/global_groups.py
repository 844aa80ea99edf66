"""Whole groups of the network ranked against each other until a budget is met: `GlobalRankedGroupPruner`.

The ranking per unit of cost, and the search for how many go.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from compress.context import StepContext
from compress.distributed import of_first_rank
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.groups import Tilings, group_norms, group_size
from compress.pruning.base import Pruner
from compress.pruning.coupled_masks import channel_dim, told
from compress.pruning.structure import MaxSparsity, RoundTo
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors, canonical_parameters
from compress.thinning.cost import (
    Cost,
    Removed,
    latency_ratio,
    left_out_of_budget,
    parameter_count,
    runtime_budget,
    weight_macs_left,
)
from compress.thinning.ranking import Ranked, Vote, by_reason, combined, masks_of_units, staying, voters

Scores = dict[str, np.ndarray]  # by group, shape (units,)
CostOf = Callable[[Removed], float]


@PRUNERS.register
class GlobalRankedGroupPruner(Pruner):
    """Prunes filters all over the network until it meets a budget: so many MACs, parameters, or so much time.

    Paper: the greedy ranking over all layers and its cost term are those of Molchanov et al. 2017, Pruning
    Convolutional Neural Networks for Resource Efficient Inference, arXiv 1611.06440, section 2.2 and eq. 10 (there a
    difference, here a quotient). A coupled group's unit has the mean of its named filters' norms, each divided by its
    layer's mean, as importance; importance over the cost of one unit ranks all units of all groups, and the lowest go,
    as few as meet the budget. A group is never emptied. Of an attention's projection both its heads and the positions
    within its heads are ranked. The budget is of the network as it was when the pruner first acted, thinned or not.

    When to use: when the goal is a number of the device ("half the MACs"), not a fraction of each layer; with a
    `FilterRemover` in the same epoch.

    Sample:
        pruners:
          half_the_macs:
            class: GlobalRankedGroupPruner
            target: macs
            to: 0.5
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights whose filters may go, with all that is coupled to them.
        to: what is to be left of the cost, as a fraction of the dense network's, (0, 1).
        target: `macs`, `params` (both counted) or `latency` (measured on this machine, on the example inputs; ranked by
            MACs; the masks of two runs may differ).
        runtime: of `latency`: instead of PyTorch's, the time of the exported float file in this runtime, predicted by a
            latency model that is measured when the pruner first acts; widths by a knapsack (Shen et al. 2022, HALP,
            arXiv 2110.10811), of those that are worth having on this machine unless `round_to` is given.
        norm: `L1` or `L2`, over the length of the filter.
        gradual: reach the budget over the policy's firing epochs along the cubic of automated gradual pruning; the
            first of them already removes its part.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: at most this fraction of a group goes, (0, 1].

    Raises:
        UserError: there are no example inputs to trace the network with.
    """

    def __init__(
        self,
        weights: WeightSelectors,
        to: Annotated[float, Field(gt=0.0, lt=1.0)],
        target: Cost = "macs",
        norm: Literal["L1", "L2"] = "L1",
        gradual: bool = False,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity = 0.9,
        runtime: str | None = None,
    ) -> None:
        if runtime is not None and target != "latency":
            raise ValueError(f"runtime {runtime!r} is of `target: latency`, and the target is {target}")
        self.runtime = runtime
        self._runtime_budget: Any = None  # a RuntimeBudget, or what it saved
        self.weights = list(weights)
        self.to = to
        self.target: Cost = target
        self.order = int(norm[1])
        self.gradual = gradual
        self.round_to = round_to
        self.max_sparsity = max_sparsity
        self._tilings = Tilings()
        self._dense: float | None = None  # the count when it first acted
        self._now = 1.0  # the latency of the network as it is, of the dense one's: that one is gone after thinning
        self._last = (0, 1.0)  # parameters of the network when it last acted, and what it left of the latency

    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Masks of the units that must go for the budget of this epoch."""
        if ctx.graph is None:
            raise UserError(f"{type(self).__name__} ranks the groups of a graph, and this scheduler has none")
        graph = ctx.graph.get()
        votes = [self._vote(name, weights[name], ctx) for name in self.weights]
        budget = self._budget(ctx, window)
        if self.runtime is not None:
            scores, chosen, reached = self._within_time(graph, votes, budget, ctx)
        else:
            scores, chosen, reached = self.choose(graph, votes, self._cost(graph, ctx), budget, ctx)
        if reached > budget:
            ctx.graph.tell_once(
                f"the budget of {budget:.1%} of the {self.target} is out of reach with max_sparsity "
                f"{self.max_sparsity:g} and the weights named: {reached:.1%} are left{self._kept(graph, votes)}"
            )
        self._last = (int(parameter_count(graph, ctx.graph.network, {})), reached)
        ranked = masked(graph, ctx, votes, chosen)
        known = {name: torch.from_numpy(each) for name, each in scores.items()}
        highest = max((float(scores[name][units].max()) for name, units in chosen.items() if len(units)), default=None)
        return told(ctx, replace(ranked, scores=known, threshold=highest))

    @staticmethod
    def _kept(graph: ChannelGraph, votes: list[Vote]) -> str:
        """Which of the named weights gave nothing, and why."""
        kept = by_reason(staying({vote.name: (vote.name, vote.dim) for vote in votes}, graph))
        return "".join(f"; no filter of {', '.join(names)} can go: {reason}" for reason, names in kept.items())

    def choose(
        self, graph: ChannelGraph, votes: list[Vote], cost: CostOf, budget: float, ctx: StepContext
    ) -> tuple[Scores, Removed, float]:
        """The scores of all units by group, the units that go, and the cost that is left."""
        scores = self._scores(graph, votes)
        chosen, reached = self._within(graph, scores, cost, budget)
        return scores, chosen, reached

    def _within(self, graph: ChannelGraph, scores: Scores, cost: CostOf, budget: float) -> tuple[Removed, float]:
        """As few of the lowest units as meet the budget."""
        order = self._order(graph, scores)
        count, reached = fewest(len(order), lambda k: cost(self._chosen(graph, order[:k])), budget)
        return self._chosen(graph, order[: of_first_rank(count)]), reached

    def _within_time(
        self, graph: ChannelGraph, votes: list[Vote], budget: float, ctx: StepContext
    ) -> tuple[Scores, Removed, float]:
        """The same within a budget of time in the runtime; the first process decides how many units go."""
        assert ctx.graph is not None
        network, inputs = ctx.graph.network, ctx.graph.inputs
        assert inputs is not None
        tools = runtime_budget()
        if not isinstance(self._runtime_budget, tools.RuntimeBudget):
            self._runtime_budget = tools.RuntimeBudget(network, inputs, self.runtime, self._runtime_budget)
        voted = [(group, voters(group, votes)) for group in graph.groups(prunable_only=True)]
        scores = {group.name: combined(group, own).numpy() for group, own in voted if own}
        limit = tools.Limit(self.max_sparsity, self.round_to)
        chosen, reached = self._runtime_budget.choose(network, graph, scores, budget, limit)
        counts = {name: of_first_rank(len(chosen[name])) for name in sorted(chosen)}  # others measure other times
        lowest = {name: np.argsort(scores[name], kind="stable")[:count] for name, count in counts.items()}
        return scores, {name: sorted(map(int, units)) for name, units in lowest.items()}, reached

    def _vote(self, name: str, weight: Tensor, ctx: StepContext) -> Vote:
        tile = self._tilings.tile(ctx.model, name, weight.shape, "Filters")
        scores = group_norms(weight.detach(), tile, self.order) / group_size(tile)
        return Vote(name, channel_dim("Filters", weight.shape, tile) or 0, scores, 0.0, None)

    def _scores(self, graph: ChannelGraph, votes: list[Vote]) -> Scores:
        """Importance over the cost of each unit, of every group that the votes name, shape (units,)."""
        voted = [(group, voters(group, votes)) for group in graph.groups(prunable_only=True)]
        return {group.name: combined(group, own).numpy() / unit_cost(group, self.target) for group, own in voted if own}

    def _order(self, graph: ChannelGraph, scores: Mapping[str, np.ndarray]) -> list[tuple[str, int]]:
        """Every unit that may go, least important for its cost first; the last of a group that may not are left out."""
        found: list[tuple[float, str, int]] = []
        for group in graph.groups(prunable_only=True):
            if group.name in scores:
                own = scores[group.name]
                # 1e-9: 0.29 * 100 is 28.999999999999996, and 29 is meant.
                most = min(math.floor(self.max_sparsity * group.units + 1e-9), group.prunable)
                ranked = np.argsort(own, kind="stable")[:most]
                found += [(float(own[unit]), group.name, int(unit)) for unit in ranked]
        return [(name, unit) for _, name, unit in sorted(found)]

    def _chosen(self, graph: ChannelGraph, units: list[tuple[str, int]]) -> Removed:
        """The units by group, as many as leave a multiple of `round_to`; the least important stay in."""
        found: dict[str, list[int]] = {}
        for name, unit in units:
            found.setdefault(name, []).append(unit)
        for group in graph.groups():
            if group.name in found and self.round_to > 1:
                left = math.ceil((group.units - len(found[group.name])) / self.round_to) * self.round_to
                found[group.name] = found[group.name][: max(0, group.units - left)]
        return {name: sorted(each) for name, each in found.items()}

    def _cost(self, graph: ChannelGraph, ctx: StepContext) -> CostOf:
        """Units that go -> what is left of the dense network's cost, as a fraction."""
        assert ctx.graph is not None
        model, inputs = ctx.graph.network, ctx.graph.inputs
        if self.target == "latency":
            assert inputs is not None
            if parameter_count(graph, model, {}) < self._last[0]:  # it has been thinned since
                self._now = self._last[1]
            now = self._now
            return lambda removed: now * latency_ratio(graph, model, inputs, removed)
        count = parameter_count if self.target == "params" else weight_macs_left
        if self._dense is None:
            self._dense = count(graph, model, {})
            if self.target == "macs" and (note := left_out_of_budget(graph)):
                ctx.graph.tell_once(note, logging.INFO)
        dense = self._dense
        return lambda removed: count(graph, model, removed) / dense

    def _budget(self, ctx: StepContext, window: EpochWindow) -> float:
        """What may be left now; of n firing epochs the k-th removes (1 - to) * (1 - (1 - k/n)^3)."""
        if not self.gradual:
            return self.to
        fired = sum(epoch <= ctx.epoch for epoch in window.epochs) / len(window.epochs)
        return 1.0 - (1.0 - self.to) * (1.0 - (1.0 - fired) ** 3)

    def places(self, model: nn.Module) -> dict[str, Place]:
        """Weight -> the dimension of its filters; without those that have none, which `faults` names."""
        parameters, found = canonical_parameters(model), {}
        for name in self.weights:
            with contextlib.suppress(ValueError):
                tile = self._tilings.tile(model, name, parameters[name].shape, "Filters")
                found[name] = (name, channel_dim("Filters", parameters[name].shape, tile) or 0)
        return found

    def faults(self, model: nn.Module) -> list[str]:
        """Weights that have no filters."""
        return self._tilings.faults(model, dict.fromkeys(self.weights, "Filters"))

    def state_dict(self) -> dict[str, Any]:
        """The dense network's cost, and what is left of it."""
        saved = self._runtime_budget if isinstance(self._runtime_budget, dict) else None
        if self._runtime_budget is not None and saved is None:
            saved = self._runtime_budget.model.to_dict()
        return {"dense": self._dense, "now": self._now, "last": list(self._last), "runtime": saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self._dense, self._now = state["dense"], state["now"]
        self._last = (state["last"][0], state["last"][1])
        self._runtime_budget = state.get("runtime")


def masked(graph: ChannelGraph, ctx: StepContext, votes: list[Vote], chosen: Removed) -> Ranked:
    """The masks of chosen units, over everything that is coupled to them."""
    assert ctx.graph is not None
    places = [(vote.name, vote.dim) for vote in votes]
    units = {name: np.asarray(each) for name, each in chosen.items()}
    return masks_of_units(graph, ctx.graph.network, places, units)


def unit_cost(group: ChannelGroup, target: Cost) -> float:
    """What one unit of a group costs; latency is ranked by MACs."""
    return max(group.parameters_per_unit if target == "params" else group.macs_per_unit, 1.0)


def fewest(most: int, cost: Callable[[int], float], budget: float) -> tuple[int, float]:
    """The smallest count in 0..most whose cost is within the budget (`most` if none is), and its cost; by bisection.

    Example: fewest(10, lambda k: 1 - k / 10, 0.55) is (5, 0.5).
    """
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if cost(middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low, cost(low)

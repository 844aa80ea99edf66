"""Filters removed step by step where it costs the least measured loss: `GreedyFilterPruner`.

The search.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from compress.context import StepContext
from compress.distributed import of_first_rank
from compress.graph.calls import Arguments
from compress.graph.channels import ChannelGraph
from compress.pruning.network_wide.global_groups import CostOf, GlobalRankedGroupPruner, Scores, masked
from compress.pruning.network_wide.measured_loss import Measure
from compress.pruning.structure import MaxSparsity, RoundTo
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors
from compress.thinning.cost import Removed
from compress.thinning.ranking import Vote

Step = Annotated[float, Field(gt=0.0, lt=1.0)]
CountedCost = Literal["macs", "params"]


class MeasuredGroupPruner(GlobalRankedGroupPruner):
    """What pruners by measured loss share: they act in the first minibatch of an epoch, and measure on it."""

    batches: int = 1
    listens: ClassVar[bool] = True

    _inputs: Arguments | None = None

    def begin_gathering(self) -> None:
        """Forgets the inputs of an earlier epoch."""
        self._inputs = None

    def on_inputs(self, inputs: Arguments) -> None:
        """Keeps what the network is called with."""
        self._inputs = inputs


@PRUNERS.register
class GreedyFilterPruner(MeasuredGroupPruner):
    """Prunes filters in small steps, each time in the group where the measured loss rises least for what is saved.

    Paper: the greedy search is that of Yang et al. 2018, NetAdapt, arXiv 1804.03230, section 3.2, and of Distiller's
    `--greedy`. In each step of the search every group of coupled filters is tried without its next `step` of units
    (those of the smallest mean norm); the trial with the lowest rise of the loss per saved cost stays. The steps
    continue until the budget of the epoch is met. The loss is that of the minibatch under way, in evaluation mode, as
    the loop offers it. Different from the sources, fine-tuning between the steps is the training itself: with `gradual`
    the budget tightens over the policy's firing epochs, and what lies between two of them trains the network. A group
    is never emptied; what was masked before stays masked.

    When to use: when the loss itself should choose, and the time for (groups x steps) forward passes is there; with
    large minibatches, or `--accumulate`, for the choice is only as good as the samples that it sees.

    Sample:
        pruners:
          greedy:
            class: GreedyFilterPruner
            target: macs
            to: 0.5
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights whose filters may go, with all that is coupled to them.
        to: what is to be left of the cost, as a fraction of the dense network's, (0, 1).
        target: `macs` or `params`, both counted.
        step: fraction of a group's units that one step removes, one unit at least, (0, 1).
        norm: `L1` or `L2`, over the length of the filter: the order of the units within a group.
        gradual: reach the budget over the policy's firing epochs along the cubic of automated gradual pruning; the
            first of them already removes its part.
        max_sparsity: at most this fraction of a group goes, (0, 1].
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
    """

    def __init__(
        self,
        weights: WeightSelectors,
        to: Annotated[float, Field(gt=0.0, lt=1.0)],
        target: CountedCost = "macs",
        step: Step = 0.1,
        norm: Literal["L1", "L2"] = "L1",
        gradual: bool = True,
        max_sparsity: MaxSparsity = 0.9,
        round_to: RoundTo = 1,
    ) -> None:
        super().__init__(weights, to, target, norm, gradual, round_to, max_sparsity)
        self.step = step

    def choose(
        self, graph: ChannelGraph, votes: list[Vote], cost: CostOf, budget: float, ctx: StepContext
    ) -> tuple[Scores, Removed, float]:
        """The greedy search from what is masked already."""
        scores = self._scores(graph, votes)
        order = self._orders(graph, scores)
        counts = {name: int((scores[name] == 0).sum()) for name in order}  # masked before
        measure = Measure(ctx, self._inputs)

        def chosen(counts: Mapping[str, int]) -> Removed:
            return self._chosen(
                graph, [(name, unit) for name, units in order.items() for unit in units[: counts[name]]]
            )

        left, loss = cost(chosen(counts)), measure(masked(graph, ctx, votes, chosen(counts)).masks)
        while left > budget:
            trials = []
            for name in order:
                wider = {**counts, name: self._further(graph, name, counts[name], len(order[name]))}
                cheaper = cost(chosen(wider))
                if cheaper < left:
                    rise = measure(masked(graph, ctx, votes, chosen(wider)).masks) - loss
                    trials.append((rise / (left - cheaper), name, wider, cheaper, loss + rise))
            if not trials:
                break
            # Losses differ between processes, each of which sees other samples; all of them have to take the same step.
            best = of_first_rank(min(range(len(trials)), key=lambda place: trials[place][:2]))
            _, _, counts, left, loss = trials[best]
        self._inputs = None
        return scores, chosen(counts), left

    def _orders(self, graph: ChannelGraph, scores: Scores) -> dict[str, list[int]]:
        """The units of each group that may go, least important first."""
        order: dict[str, list[int]] = {}
        for name, unit in self._order(graph, scores):
            order.setdefault(name, []).append(unit)
        return order

    def _further(self, graph: ChannelGraph, name: str, count: int, most: int) -> int:
        """One step more of a group; with `round_to` to the next number that it allows."""
        units = next(group.units for group in graph.groups() if group.name == name)
        wanted = count + max(1, self.round_to, math.floor(self.step * units + 1e-9))
        return int(np.clip(wanted, count, most))

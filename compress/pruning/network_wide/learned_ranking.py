"""A global ranking whose layers are compensated by what pruning them really costs: `LearnedRankingPruner`.

The evolutionary search.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from compress.context import StepContext
from compress.distributed import of_first_rank
from compress.graph.channels import ChannelGraph
from compress.pruning.network_wide.global_groups import CostOf, Scores, masked
from compress.pruning.network_wide.greedy import CountedCost, MeasuredGroupPruner
from compress.pruning.network_wide.measured_loss import Measure
from compress.pruning.structure import MaxSparsity, RoundTo
from compress.registry import PRUNERS
from compress.selectors import WeightSelectors
from compress.thinning.cost import Removed
from compress.thinning.ranking import Vote

Gene = np.ndarray  # shape (groups, 2): the factor and the addend of each group's importances
MUTATED = 0.3  # share of the groups that a child differs in
SPREAD = 0.7  # standard deviation of a factor's logarithm, and of an addend in units of the mean importance
TOURNAMENT = 0.25  # share of the population of which the best becomes the parent


@PRUNERS.register
class LearnedRankingPruner(MeasuredGroupPruner):
    """Ranks filters all over the network by importances that are compensated layer by layer, learned by measured loss.

    Paper: Chin, Zhang & Marculescu 2018, Layer-compensated Pruning for Resource-constrained Convolutional Neural
    Networks, arXiv 1810.00518, and Chin et al. 2020, LeGR, arXiv 1904.12368: the importance of a unit becomes
    alpha * importance + kappa with a pair for each coupled group, found by regularized evolution. Each try mutates
    the best of a random quarter of the population and drops the oldest; the fitness is the measured loss once the
    ranking has been cut at the budget. Different from the papers: importances are those of `GlobalRankedGroupPruner`
    (mean norm over cost), whose own ranking is the first candidate, so that the result is never worse on the measured
    minibatch; and fitness is measured without fine-tuning.

    When to use: as `GlobalRankedGroupPruner`, when `tries` forward passes buy a better split between layers.

    Sample:
        pruners:
          learned:
            class: LearnedRankingPruner
            target: macs
            to: 0.5
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights whose filters may go, with all that is coupled to them.
        to: what is to be left of the cost, as a fraction of the dense network's, (0, 1).
        target: `macs` or `params`, both counted.
        tries: rankings that are measured in each firing epoch, >= 1.
        population: rankings that are alive at a time, >= 2.
        norm: `L1` or `L2`, over the length of the filter.
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
        tries: Annotated[int, Field(ge=1)] = 100,
        population: Annotated[int, Field(ge=2)] = 16,
        norm: Literal["L1", "L2"] = "L2",
        gradual: bool = False,
        max_sparsity: MaxSparsity = 0.9,
        round_to: RoundTo = 1,
    ) -> None:
        super().__init__(weights, to, target, norm, gradual, round_to, max_sparsity)
        self.tries = tries
        self.population = population

    def choose(
        self, graph: ChannelGraph, votes: list[Vote], cost: CostOf, budget: float, ctx: StepContext
    ) -> tuple[Scores, Removed, float]:
        """The best of the rankings that evolution has tried."""
        plain, measure = self._scores(graph, votes), Measure(ctx, self._inputs)
        scale = float(np.mean(np.concatenate(list(plain.values())))) if plain else 1.0

        def compensated(gene: Gene) -> Scores:
            pairs = zip(plain.items(), gene, strict=True)
            found = {name: alpha * own + kappa * scale for (name, own), (alpha, kappa) in pairs}
            lowest = min((float(own.min()) for own in found.values()), default=0.0) - scale
            return {
                name: np.where(plain[name] == 0, lowest, own) for name, own in found.items()
            }  # masked before: first

        def fitness(gene: Gene) -> float:
            removed, reached = self._within(graph, compensated(gene), cost, budget)
            return measure(masked(graph, ctx, votes, removed).masks) if reached <= budget else float("inf")

        best = evolve(len(plain), fitness, self.tries, self.population, ctx.generator)
        self._inputs = None
        scores = compensated(best)
        removed, reached = self._within(graph, scores, cost, budget)
        return scores, removed, reached


def evolve(
    groups: int, fitness: Callable[[Gene], float], tries: int, population: int, generator: torch.Generator
) -> Gene:
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548) from the ranking as it is; the fittest of all tries.

    Args:
        groups: how many pairs a gene has.
        fitness: of a gene; lower is better.
        tries: genes whose fitness is asked for.
        population: genes that are alive at a time.
        generator: what chance draws from.
    """
    plain = np.tile([1.0, 0.0], (groups, 1))
    alive = [(plain, fitness(plain))]
    best = alive[0]
    for number in range(1, tries):
        size = max(1, int(TOURNAMENT * len(alive)))
        drawn = [int(torch.randint(len(alive), (), generator=generator)) for _ in range(size)]
        parent = plain if number < population else alive[min(drawn, key=lambda place: alive[place][1])][0]
        child = _mutated(parent, generator)
        alive.append((child, fitness(child)))
        # Each process measures on its own samples; the first one's verdict counts, so that all keep the same gene.
        if of_first_rank(int(alive[-1][1] < best[1])):
            best = alive[-1]
        alive = alive[-population:]
    return best[0]


def _mutated(gene: Gene, generator: torch.Generator) -> Gene:
    chosen = (torch.rand(len(gene), generator=generator) < MUTATED).numpy()
    noise = torch.randn(len(gene), 2, generator=generator).double().numpy() * SPREAD
    child = np.array(gene)
    child[chosen, 0] *= np.exp(noise[chosen, 0])
    child[chosen, 1] += noise[chosen, 1]
    return child

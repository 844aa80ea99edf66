"""Whole groups pruned at once by a second-order criterion, what is left repaired: `SecondOrderGroupPruner`.

The schedule's form of `prune_one_shot`, to be trained on.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.calibration.samples import finite_samples
from compress.context import StepContext
from compress.distributed import made_by_first_rank
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.graph.calls import Arguments
from compress.graph.channels import ChannelGraph, ChannelGroup
from compress.graph.modes import uncached_autocast
from compress.parameters import copied
from compress.pruning.coupled_masks import told
from compress.pruning.network_wide.global_groups import CostOf, GlobalRankedGroupPruner, masked
from compress.pruning.network_wide.greedy import CountedCost
from compress.pruning.one_shot.repair import repair
from compress.pruning.one_shot.selection import MOST, check_is_finite, find_readers, select, select_counts
from compress.pruning.structure import MaxSparsity, RoundTo, groups_to_prune
from compress.registry import PRUNERS
from compress.selectors import WeightSelector, WeightSelectors, canonical_parameters
from compress.thinning.ranking import Vote, combined, common_level, voters
from compress.thinning.thin import put_on

BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


@PRUNERS.register
class SecondOrderGroupPruner(GlobalRankedGroupPruner):
    """Prunes whole groups by what the layers that read them lose, and sets what is left so that they lose least.

    Papers: those of `prune_one_shot` (`test.py --prune`): the error of a layer without some of its inputs, all
    other weights updated (Kurtic et al. 2022, The Optimal BERT Surgeon, arXiv 2203.07259; Meng et al. 2024, OSSCAR,
    arXiv 2403.12983), over all layers in rounds; then least squares layer by layer, and BatchNorm's statistics move.
    It looks at the inputs of the first `batches` minibatches of its epoch, which train the network as it is, and acts
    before the optimizer's step of the last of them. What stays of a frozen parameter keeps its values. Of several
    processes the first one's samples decide.

    When to use: before fine-tuning, above all where that is short: the network loses far less at once than by the norms
    of its filters. With a `FilterRemover` in the same epoch.

    Sample:
        pruners:
          half_the_macs:
            class: SecondOrderGroupPruner
            target: macs
            to: 0.5
            weights: ['conv*.weight']

    Args:
        weights: selectors of the weights whose filters may go, with all that is coupled to them; with `to`.
        to: what is to be left of the cost, as a fraction of the dense network's, (0, 1).
        target: `macs` or `params`, both counted.
        sparsities: instead of `weights` and `to`: selectors of weights -> fraction of their filters that goes, to the
            nearest number, [0, 1). Filters that are read by a layer whose inputs are not measured (a transposed or
            grouped convolution) go by their L1 norms, which the log says; within a budget they stay.
        batches: minibatches whose inputs are looked at, >= 1; some hundred samples in all.
        repair: set what is left by least squares; else only the choice is of second order.
        round_to: what is left of a group is rounded up to a multiple of it, such as 8, >= 1.
        max_sparsity: of a budget: at most this fraction of a group goes, (0, 1]; None is 0.9.

    Raises:
        UserError: there are no example inputs to trace the network with, or it holds values that are not finite.
    """

    listens: ClassVar[bool] = True

    def __init__(
        self,
        weights: WeightSelectors | None = None,
        to: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None,
        target: CountedCost = "macs",
        sparsities: dict[WeightSelector, BelowOne] | None = None,
        batches: Annotated[int, Field(ge=1)] = 8,
        repair: bool = True,
        round_to: RoundTo = 1,
        max_sparsity: MaxSparsity | None = None,
    ) -> None:
        if (sparsities is None) == (to is None) or (weights is None) != (to is None):
            raise ValueError(
                "give `weights` and `to`, a budget, or else `sparsities`, a fraction of each weight's filters"
            )
        if sparsities is not None and max_sparsity is not None:
            raise ValueError("max_sparsity is of a budget, `to`; with `sparsities` each fraction says how much goes")
        names = list(weights if weights is not None else sparsities or ())
        super().__init__(names, 1.0 if to is None else to, target, "L1", False, round_to, max_sparsity or MOST)
        self.sparsities = sparsities
        self.batches = batches
        self.repair = repair
        self.begin_gathering()

    def begin_gathering(self) -> None:
        """Forgets the inputs of an earlier epoch."""
        self._inputs: list[Arguments] = []
        self._heard = False  # in this minibatch
        self._repaired: dict[str, Tensor] = {}

    def on_inputs(self, inputs: Arguments) -> None:
        """Keeps what the network is called with first in a minibatch."""
        if inputs and not self._heard:
            self._heard = True
            self._inputs.append(pytree.tree_map(_copy, inputs))

    def observe(self, parameters: Mapping[str, nn.Parameter], ctx: StepContext) -> None:
        """The minibatch is over."""
        self._heard = False

    @torch.inference_mode(False)
    @uncached_autocast()
    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """Masks of the units that go; the weights that are left are computed too, for `rewrite`."""
        if ctx.graph is None:
            raise UserError(f"{type(self).__name__} ranks the groups of a graph, and this scheduler has none")
        graph, votes = ctx.graph.get(), [self._vote(name, weights[name], ctx) for name in self.weights]
        cost = self._cost(graph, ctx)
        chosen, self._repaired, said = made_by_first_rank(lambda: self._made(graph, votes, cost, ctx))
        for text, level in said:
            ctx.graph.tell_once(text, level)
        self._inputs = []
        return told(ctx, masked(graph, ctx, votes, chosen))

    def _made(
        self, graph: ChannelGraph, votes: Sequence[Vote], cost: CostOf, ctx: StepContext
    ) -> tuple[dict[str, list[int]], dict[str, Tensor], list[tuple[str, int]]]:
        """The units that go, the parameters and statistics that are set, on the CPU, and what is to be said."""
        assert ctx.graph is not None
        if not self._inputs:
            raise UserError(f"{type(self).__name__} needs a network that is called with arguments")
        network = ctx.graph.network
        dense, batches = copied(network).eval(), finite_samples(self._on_device(network))
        check_is_finite(dense)
        said: list[tuple[str, int]] = []
        chosen = self._units(graph, dense, votes, batches, cost, said)
        if not self.repair:
            return chosen, {}, said
        return chosen, _repaired(dense, _all_masks(ctx, masked(graph, ctx, list(votes), chosen).masks), batches), said

    def rewrite(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], ctx: StepContext
    ) -> dict[str, Tensor]:
        """The repaired parameters; BatchNorm's statistics are set too."""
        found, self._repaired = self._repaired, {}
        assert ctx.graph is not None
        with torch.no_grad():
            for name, buffer in ctx.graph.network.named_buffers():
                if name in found:
                    buffer.copy_(found[name])
        return {name: value for name, value in found.items() if name in ctx.masks}

    def state_dict(self) -> dict[str, Any]:
        """The inputs so far, and what the budget is of."""
        return {**super().state_dict(), "inputs": list(self._inputs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state)
        self._inputs = list(state["inputs"])

    def _vote(self, name: str, weight: Tensor, ctx: StepContext) -> Vote:
        vote = super()._vote(name, weight, ctx)
        # Of an attention's projection whole heads: a fraction of both kinds would be two.
        return vote if self.sparsities is None else replace(vote, level=self.sparsities[name], within_heads=False)

    def _on_device(self, network: nn.Module) -> list[Any]:
        device = next(network.parameters()).device
        return pytree.tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, self._inputs)

    def _units(
        self, graph: ChannelGraph, dense: nn.Module, votes: Sequence[Vote], batches: Sequence[Any], cost: CostOf,
        said: list[tuple[str, int]],
    ) -> dict[str, list[int]]:  # fmt: skip
        """The units that go, by group."""
        readers = find_readers(dense, graph, batches)
        named = [group for group in graph.groups(prunable_only=True) if voters(group, votes)]
        known = {group.name for group in readers.groups}
        others = {group.name: combined(group, voters(group, votes)) for group in named if group.name not in known}
        if self.sparsities is not None:
            counts = {group.name: self._count(group, common_level(voters(group, votes))) for group in named}
            for name in others:
                why = _note_of(name, readers.notes).partition(" stay: ")[2]
                said.append((f"{name}: its units go by their L1 norms: {why}", logging.INFO))
            return {**select_counts(graph, readers, counts), **lowest(others, counts)}
        said += [(_note_of(name, readers.notes), logging.WARNING) for name in others]
        readers = replace(readers, groups=tuple(group for group in named if group.name in known))
        chosen, left = select(graph, readers, cost, self.to, self.target, self.max_sparsity, self.round_to)
        if left > self.to:
            text = (
                f"the budget of {self.to:.1%} of the {self.target} is out of reach with max_sparsity "
                f"{self.max_sparsity:g} and the weights named: {left:.1%} are left"
            )
            said.append((text, logging.WARNING))
        return chosen

    def _count(self, group: ChannelGroup, level: float) -> int:
        left = group.units - min(groups_to_prune(level, group.units, rounding="nearest"), group.prunable)
        return max(0, group.units - math.ceil(left / self.round_to) * self.round_to)


def lowest(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """So many units of each group, the lowest scores first; groups that lose none are left out."""
    return {
        name: sorted(each.argsort(stable=True)[: counts[name]].tolist())
        for name, each in scores.items()
        if counts.get(name)
    }


def _note_of(name: str, notes: Sequence[str]) -> str:
    """Why a group is not measured."""
    return next(
        (note for note in notes if note.startswith(f"{name}: ")),
        f"{name}: its units stay: nothing that is measured reads it",
    )


def _copy(leaf: Any) -> Any:
    """Some loops write each minibatch into the same tensor."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _all_masks(ctx: StepContext, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new masks, and what others have masked; on the parameters' devices."""
    found = {each.name: each.mask for each in ctx.masks.masked() if each.mask is not None}
    for name, mask in new.items():
        mask = mask.to(ctx.masks[name].parameter.device)
        found[name] = found[name] & mask if name in found else mask
    return found


def _repaired(dense: nn.Module, masks: Mapping[str, Tensor], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Parameters and running statistics that the repair changes, by name, on the CPU."""
    pruned = copied(dense)
    put_on(pruned, masks)
    before = {name: each.clone() for name, each in _state(pruned).items()}
    frozen = {name for name, each in canonical_parameters(dense).items() if not each.requires_grad}
    repair(dense, pruned, masks, batches, frozen)
    return {name: each.cpu() for name, each in _state(pruned).items() if not torch.equal(each, before[name])}


def _state(network: nn.Module) -> dict[str, Tensor]:
    parameters = {name: each.detach() for name, each in canonical_parameters(network).items()}
    statistics = {
        name: each for name, each in network.named_buffers() if name.endswith(("running_mean", "running_var"))
    }
    return {**statistics, **parameters}

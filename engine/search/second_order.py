"""Units of a trained network by what the layers that read them lose, and a network without some of them, repaired.

`SecondOrder`. What the schedule's `SecondOrderGroupPruner` does in a run, on one set of calibration data.
"""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, ChannelGroup
from compress.groups import Tilings
from compress.pruning.coupled_masks import channel_dim
from compress.pruning.network_wide.second_order import lowest
from compress.pruning.one_shot.repair import repair
from compress.pruning.one_shot.selection import Readers, distance, find_readers, select_counts, unit_costs
from compress.selectors import parameter_owner
from compress.thinning.complete import masks_of
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.thin import put_on

STEPS = 32  # in which a group loses its units
WIDTHS = 8  # at which a group that cannot be measured is tried
Scores = Mapping[str, Sequence[float]]


class SecondOrder:
    """Of one network.

    Args:
        network: float, on the CPU; it is left as it is.
        graph: of it.
        batches: inputs to calibrate with.
    """

    def __init__(self, network: nn.Module, graph: ChannelGraph, batches: Sequence[Tensor]) -> None:
        self._network, self._graph, self._batches = copy.deepcopy(network).eval(), graph, list(batches)
        self._readers = find_readers(self._network, graph, self._batches)

    def importance(self, norms: Scores) -> dict[str, list[float]]:
        """What each unit adds to the squared error of the output as its group alone gets narrower, cheapest first.

        Args:
            norms: group -> the norm of each unit's filters; the order in which units of a group that cannot be
                measured go.

        Returns:
            group -> a score a unit, >= 0.
        """
        groups = {group.name: group for group in self._readers.groups}
        return {
            name: self._of_group(groups[name]) if name in groups else self._by_norms(name, each)
            for name, each in norms.items()
        }

    def thinned(self, counts: Mapping[str, int], norms: Scores) -> nn.Module:
        """A copy without so many units of each group, what is left set by least squares."""
        known = {group.name for group in self._readers.groups}
        others = {name: torch.tensor(each) for name, each in norms.items() if name not in known}
        removed = {**select_counts(self._graph, self._copied(), counts), **lowest(others, counts)}
        pruned, masks = self._without(removed)
        repair(self._network, pruned, masks, self._batches)
        return plan_recipe(pruned, self._graph, removed).apply(pruned)

    def _copied(self) -> Readers:
        return replace(self._readers, surgeons={name: each.copy() for name, each in self._readers.surgeons.items()})

    def _without(self, removed: Mapping[str, list[int]]) -> tuple[nn.Module, dict[str, Tensor]]:
        """A copy with zeros in everything that belongs to some units, and their masks."""
        pruned = copy.deepcopy(self._network)
        masks = masks_of(self._graph, removed, dict(pruned.named_parameters()))
        put_on(pruned, masks)
        return pruned, masks

    def _of_group(self, group: ChannelGroup) -> list[float]:
        columns, scores = self._readers.columns[group.name], [0.0] * group.units
        surgeons = {name: self._readers.surgeons[name].copy() for name in columns}
        before = {name: each.weight.clone() for name, each in surgeons.items()}
        alone, left, lost = replace(self._readers, surgeons=surgeons), list(range(group.units)), 0.0
        while left:
            costs = unit_costs(alone, group)
            left.sort(key=lambda unit: float(costs[unit]))
            gone, left = left[: max(1, group.units // STEPS)], left[max(1, group.units // STEPS) :]
            for name, each in columns.items():
                surgeons[name].remove(each[gone].flatten().unique())
            now = sum(each.scale * each.predicted(before[name]) for name, each in surgeons.items())
            for unit in gone:
                scores[unit] = max(0.0, now - lost) / len(gone)
            lost = now
        return scores

    def _by_norms(self, name: str, norms: Sequence[float]) -> list[float]:
        """The same of a group that cannot be measured: the error of the output at some widths, repaired nowhere."""
        order, scores, lost = sorted(range(len(norms)), key=lambda unit: norms[unit]), [0.0] * len(norms), 0.0
        with torch.no_grad():
            whole = self._network(self._batches[0])
            for part in range(WIDTHS):
                first, last = (len(order) * each // WIDTHS for each in (part, part + 1))
                if first < last:
                    now = distance(whole, self._without({name: sorted(order[:last])})[0](self._batches[0]))
                    for unit in order[first:last]:
                        scores[unit] = max(0.0, now - lost) / (last - first)
                    lost = max(lost, now)
        return scores


def filter_dims(network: nn.Module) -> dict[str, int]:
    """Weight -> the dimension of its filters, of layers that are not depthwise; 1 of transposed convolutions."""
    tilings, found = Tilings(), {}
    for name, weight in network.named_parameters():
        owner = parameter_owner(network, name)
        depthwise = getattr(owner, "groups", 1) > 1 and weight.dim() > 1 and weight.shape[1] == 1
        with contextlib.suppress(ValueError):  # a vector, say
            tile = tilings.tile(network, name, weight.shape, "Filters")
            dim = channel_dim("Filters", weight.shape, tile)
            if dim is not None and not depthwise:
                found[name] = dim
    return found

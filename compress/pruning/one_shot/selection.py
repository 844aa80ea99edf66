"""Which units leave: all groups of the network against each other, by what their readers lose.

`Readers`, `select`, `select_counts`. A coupled unit is paid for where it is read: by every convolution and linear layer
that has it as an input. Between them stand norms, activations and depthwise convolutions, which lose it without a cost
of their own.
"""

import math
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.calibration.layers import with_other_weights
from compress.calibration.patches import inputs_of_a_channel
from compress.errors import UserError
from compress.graph.calls import run_on
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.parameters import copied
from compress.pruning.network_wide.global_groups import CostOf, fewest, unit_cost
from compress.pruning.one_shot.curvature import gather
from compress.pruning.one_shot.surgeon import Surgeon
from compress.selectors import parameter_owner
from compress.thinning.complete import gone_positions
from compress.thinning.cost import Cost

ROUNDS = 16  # in which the budget is reached; in between costs are computed anew
MOST = 0.9  # of a group's units that may go
TRIED = 0.25  # of a layer's units that are left out to see what the output feels of it
UNFELT = (
    "{}: all {} units stay: no gradient of the output reaches {!r}, which reads it: it is never called by itself, its "
    "result is detached or computed under torch.no_grad(), or the output is of integers or rounded (give the scores "
    "instead)"
)


@dataclass(frozen=True)
class Readers:
    """The layers that read the units of the groups that may lose some.

    Attributes:
        groups: those groups.
        surgeons: weight name -> the layer's surgeon.
        columns: group name -> weight name -> inputs of each unit, (units, inputs of a unit).
        notes: why other groups stay, one sentence each.
    """

    groups: tuple[ChannelGroup, ...]
    surgeons: dict[str, Surgeon]
    columns: dict[str, dict[str, Tensor]]
    notes: tuple[str, ...]


def check_is_finite(network: nn.Module) -> None:
    """Raises UserError where a weight or a running statistic is NaN or infinite."""
    held = [*network.named_parameters(), *(pair for pair in network.named_buffers() if "running_" in pair[0])]
    odd = [name for name, each in held if not bool(torch.isfinite(each).all())]  # a mask may well be infinite
    if odd:
        raise UserError(f"{odd[0]} holds NaN or infinite values; nothing was pruned")


def find_readers(network: nn.Module, graph: ChannelGraph, batches: Sequence[Any]) -> Readers:
    """Looks at the network's layers on calibration data.

    Args:
        network: in eval mode.
        graph: of it.
        batches: inputs.
    """
    columns: dict[str, dict[str, Tensor]] = {}
    notes, groups = [], []
    other = {f"{name}.weight" for name in with_other_weights(network, batches[0])}
    for group in graph.groups(prunable_only=True):
        reads = [place for place in group.members if place in graph.reads and _has_inputs(network, place)]
        others = [place for place in group.members if place in graph.reads and _is_other(network, place, reads)]
        odd = others + [place for place in reads if place[0] in other or not _is_known(network, place)]
        if odd or not reads:
            why = f"{odd[0][0]!r} reads it, {_why(odd[0], other)}" if odd else "no layer reads it"
            notes.append(f"{group.name}: all {group.units} units stay: {why}")
            continue
        groups.append(group)
        columns[group.name] = {name: _inputs_of_units(network, group, (name, dim)) for name, dim in reads}
    wanted = sorted({name for each in columns.values() for name in each})
    layers = {name: _owner(network, name) for name in wanted}
    found = gather(network, layers, batches)
    surgeons = {
        name: Surgeon(layers[name].weight.flatten(1), c.inputs, c.outputs, c.mean, c.noise) for name, c in found.items()
    }
    unfelt = {group.name: sorted(set(columns[group.name]) - set(surgeons)) for group in groups}
    notes += [UNFELT.format(g.name, g.units, unfelt[g.name][0]) for g in groups if unfelt[g.name]]
    readers = Readers(tuple(g for g in groups if not unfelt[g.name]), surgeons, columns, tuple(notes))
    _weigh(network, readers, batches[0])
    return readers


def _why(place: Place, other: Container[str]) -> str:
    computed = "a layer whose weight another one shares or whose code computes it anew"
    return computed if place[0] in other else "a layer whose inputs are not measured"


def _owner(network: nn.Module, weight: str) -> Any:
    return parameter_owner(network, weight)


def _has_inputs(network: nn.Module, place: Place) -> bool:
    """Whether it is a weight's dimension that counts channels one by one: a norm's or a depthwise filter's is none."""
    name, dim = place
    owner = _owner(network, name)
    if owner is None or getattr(owner, "weight", None) is None or owner.weight.dim() < 2:
        return False
    return not (dim == 0 and getattr(owner, "groups", 1) == len(owner.weight))


def _is_other(network: nn.Module, place: Place, reads: Sequence[Place]) -> bool:
    """Whether something else than a convolution or a linear layer has the group's units as inputs, such as an LSTM."""
    owner = _owner(network, place[0])
    matrix = dict(network.named_parameters()).get(place[0])
    alone = owner is None or getattr(owner, "weight", None) is None  # its weights have names of their own
    return place not in reads and (not reads or (alone and matrix is not None and matrix.dim() > 1))


def _is_known(network: nn.Module, place: Place) -> bool:
    owner = _owner(network, place[0])
    return place[1] == 1 and getattr(owner, "groups", 1) == 1 and inputs_of_a_channel(owner) is not None


def _inputs_of_units(network: nn.Module, group: ChannelGroup, place: Place) -> Tensor:
    taps = _owner(network, place[0]).weight[0, 0].numel()
    unit_of = group.members[place]
    positions = np.flatnonzero(unit_of >= 0)
    of_units = positions[np.argsort(unit_of[positions], kind="stable")].reshape(group.units, -1)
    return torch.from_numpy(of_units[:, :, None] * taps + np.arange(taps)).flatten(1)


@torch.no_grad()
def _weigh(network: nn.Module, readers: Readers, batch: Any) -> None:
    """Sets each surgeon's scale by a trial: what the output really feels over what the curvature says.

    The curvature takes the errors of a layer's positions for independent. They are not, and less so in the layers in
    front, so that costs of different layers could not be compared.
    """
    trial = copied(network)
    before = run_on(trial, batch)
    for name, surgeon in readers.surgeons.items():
        tried = surgeon.copy()
        for columns in (each[name] for each in readers.columns.values() if name in each):
            order = tried.costs(columns).argsort()[: max(1, int(TRIED * len(columns)))]
            tried.remove(columns[order].flatten())
        predicted = tried.predicted(surgeon.weight)
        weight = _owner(trial, name).weight
        kept = weight.clone()
        weight.copy_(tried.weight.reshape(weight.shape))
        measured = distance(before, run_on(trial, batch))
        weight.copy_(kept)
        surgeon.scale = measured / predicted if predicted > 0 and math.isfinite(measured) else 1.0


def distance(a: Any, b: Any) -> float:
    """Squared distance of two outputs, the first with floats of each, mean over samples."""
    leaves = ([t for t in torch.utils._pytree.tree_leaves(each) if isinstance(t, Tensor)] for each in (a, b))
    a, b = (next(t for t in each if t.is_floating_point()) for each in leaves)
    return float((a - b).double().square().sum()) / (len(a) if a.dim() else 1)


def select(
    graph: ChannelGraph, readers: Readers, cost: CostOf, to: float, target: Cost, most: float = MOST, round_to: int = 1
) -> tuple[dict[str, list[int]], float]:
    """The units that go, lowest cost for what they bring first, in rounds; the surgeons follow.

    Args:
        graph: of the network.
        readers: of it; changed.
        cost: units that go -> what is left of the dense network's cost, a fraction.
        to: the budget, (0, 1).
        target: what it is of.
        most: of a group's units that may go, (0, 1].
        round_to: what is left of a group is rounded up to a multiple of it: the units that went last stay.

    Returns:
        units by group, and what is left.
    """
    gone: dict[str, list[int]] = {group.name: [] for group in readers.groups}
    rounded = partial(_rounded, readers, round_to)
    reached = 1.0
    for number in range(1, ROUNDS + 1):
        budget = 1 - (1 - to) * number / ROUNDS
        order = _order(readers, gone, target, most)
        count, reached = fewest(len(order), lambda k: cost(rounded(_joined(gone, order[:k]))), budget)  # noqa: B023
        _take(graph, readers, order[:count])
        gone = _joined(gone, order[:count])
    return {name: sorted(units) for name, units in rounded(gone).items() if units}, reached


def select_counts(graph: ChannelGraph, readers: Readers, counts: Mapping[str, int]) -> dict[str, list[int]]:
    """The units that go where it is known how many of each group, lowest cost first, in rounds; the surgeons follow.

    Args:
        graph: of the network.
        readers: of it; changed.
        counts: group name -> how many of its units go.

    Returns:
        units by group.
    """
    gone: dict[str, list[int]] = {group.name: [] for group in readers.groups if counts.get(group.name)}
    for number in range(1, ROUNDS + 1):
        more: list[tuple[str, int]] = []
        for group in readers.groups:
            if group.name in gone:
                wanted = math.ceil(counts[group.name] * number / ROUNDS) - len(gone[group.name])
                cheapest = _left(unit_costs(readers, group), gone[group.name])
                more += [(group.name, unit) for unit in cheapest[:wanted]]
        _take(graph, readers, more)
        gone = _joined(gone, more)
    return {name: sorted(units) for name, units in gone.items()}


def unit_costs(readers: Readers, group: ChannelGroup) -> Tensor:
    """What each unit of a group costs its readers as they are by now, shape (units,)."""
    costs = sum(readers.surgeons[name].costs(each) for name, each in readers.columns[group.name].items())
    assert isinstance(costs, Tensor)
    return costs


def _left(costs: Tensor, gone: Collection[int]) -> list[int]:
    """The units that are left, lowest cost first."""
    away = set(gone)
    return [unit for unit in costs.argsort(stable=True).tolist() if unit not in away]


def _rounded(readers: Readers, round_to: int, gone: Mapping[str, list[int]]) -> dict[str, list[int]]:
    if round_to == 1:
        return dict(gone)
    sizes = {group.name: group.units for group in readers.groups}
    left = {name: math.ceil((sizes[name] - len(units)) / round_to) * round_to for name, units in gone.items()}
    return {name: units[: max(0, sizes[name] - left[name])] for name, units in gone.items()}


def _joined(gone: Mapping[str, list[int]], more: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found = {name: list(units) for name, units in gone.items()}
    for name, unit in more:
        found[name].append(unit)
    return found


def _order(
    readers: Readers, gone: Mapping[str, list[int]], target: Cost, most: float
) -> list[tuple[str, int]]:  # fmt: skip
    """The units that are left and may go, lowest first."""
    found: list[tuple[float, str, int]] = []
    for group in readers.groups:
        costs = unit_costs(readers, group)
        left = _left(costs, gone[group.name])
        room = min(math.floor(most * group.units + 1e-9), group.prunable) - len(gone[group.name])
        found += [(float(costs[unit]) / unit_cost(group, target), group.name, unit) for unit in left[: max(0, room)]]
    return [(name, unit) for _, name, unit in sorted(found)]


def _take(graph: ChannelGraph, readers: Readers, units: Sequence[tuple[str, int]]) -> None:
    """Takes units from those who read them, and their rows from those who write them."""
    chosen: dict[str, list[int]] = {}
    for name, unit in units:
        chosen.setdefault(name, []).append(unit)
    columns: dict[str, list[Tensor]] = {}
    for group in readers.groups:
        if group.name not in chosen:
            continue
        for name, each in readers.columns[group.name].items():
            columns.setdefault(name, []).append(each[chosen[group.name]].flatten())
        for (name, dim), positions in gone_positions(group, chosen[group.name]).items():
            if dim == 0 and name in readers.surgeons:
                readers.surgeons[name].lose_outputs(torch.from_numpy(positions))
    for name, parts in columns.items():
        readers.surgeons[name].remove(torch.cat(parts).unique())

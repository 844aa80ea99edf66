"""Units that are exactly zero already, so that they can leave a network without any mask.

`zero_units`. Called for checkpoints whose zeros were made long ago.

    conv1 -> BatchNorm -> ReLU -> conv2
    Filter 3 of conv1 is zero, and the norm's weight[3] and bias[3] too: unit 3 gives zeros, it goes.
    Column 5 of conv2 is zero: nothing reads unit 5, it goes whatever it gives.
    Filter 6 of conv1 is zero, the norm's bias[6] is not: unit 6 is a constant that conv2 reads, it stays.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.thinning.complete import cleared_units, closed_notes, zero_masks

Removed = dict[str, list[int]]


def zero_units(graph: ChannelGraph, model: nn.Module) -> tuple[Removed, tuple[str, ...]]:
    """The units that give nothing but zeros or that nothing reads, by group, and why other zero filters stay.

    Args:
        graph: from `prunable_graph`.
        model: the network; its weights are looked at.

    Returns:
        group name -> units, of groups that lose any, each of which keeps one; and a sentence for each group in which
        a whole filter or channel is zero and stays.
    """
    parameters = dict(model.named_parameters())
    zeros = zero_masks(model)
    removed: Removed = {}
    notes: list[str] = []
    for group in graph.groups():
        gone = np.flatnonzero(_silent(graph, group, parameters) | _unread(graph, group, parameters))
        cleared = np.union1d(cleared_units(graph, group, zeros), gone)
        if group.pinned:
            if len(cleared):
                notes.append(f"{group.name}: {len(cleared)} zero units stay, {'; '.join(group.pinned)}")
            continue
        if len(gone):
            removed[group.name] = gone[: group.units - 1].tolist()
        if len(gone) == group.units:
            notes.append(f"{group.name}: all {group.units} units are zero; one stays so that the layer exists")
        # A zero filter with a bias behind it gives a constant, and the next layer reads it.
        constant = np.setdiff1d(cleared, gone)
        if len(constant):
            notes.append(
                f"{group.name}: {len(constant)} units with zero filters stay: a bias or BatchNorm behind them is not "
                "zero, so that they give a constant, and without them the network would compute something else"
            )
    return {name: units for name, units in removed.items() if units}, (*notes, *closed_notes(model))


def in_both(first: Removed, second: Removed) -> Removed:
    """The units that are in both, by group."""
    both = {name: sorted(set(units) & set(second.get(name, ()))) for name, units in first.items()}
    return {name: units for name, units in both.items() if units}


def _silent(graph: ChannelGraph, group: ChannelGroup, parameters: dict[str, nn.Parameter]) -> np.ndarray:
    """For each unit whether every parameter that writes it is zero there, biases and norms included."""
    places = [place for place in group.members if place not in graph.reads and place[0] in parameters]
    return _all_zero(group, places, parameters)


def _unread(graph: ChannelGraph, group: ChannelGroup, parameters: dict[str, nn.Parameter]) -> np.ndarray:
    """For each unit whether every weight that reads it is zero there."""
    places = [place for place in group.members if place in graph.reads and place[0] in parameters]
    if not all(parameters[name].detach().any() for name, _ in places):
        return np.zeros(group.units, dtype=bool)  # one is zero everywhere, as where a branch starts closed
    return _all_zero(group, places, parameters)


def _all_zero(group: ChannelGroup, places: list[Place], parameters: dict[str, nn.Parameter]) -> np.ndarray:
    found = np.full(group.units, bool(places))
    for place in places:
        alive = _alive(parameters[place[0]], place[1])
        unit_of = group.members[place]
        found[unit_of[(unit_of >= 0) & alive]] = False
    return found


def _alive(parameter: Tensor, dim: int) -> np.ndarray:
    """For each position of a dimension whether anything of it is not zero; NaN is not."""
    moved = (parameter.detach() != 0).movedim(dim, 0)
    return np.asarray(moved.reshape(len(moved), -1).any(dim=1).cpu().numpy())

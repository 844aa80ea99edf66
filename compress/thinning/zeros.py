"""Units that are exactly zero already, so that they can leave a network without any mask.

`zero_units`. Called by `thin` without masks, and for checkpoints whose zeros were made long ago.

    conv1 -> BatchNorm -> ReLU -> conv2
    Filter 3 of conv1 is zero, and the norm's weight[3] and bias[3] too: unit 3 gives zeros, it goes.
    Column 5 of conv2 is zero: nothing reads unit 5, it goes whatever it gives.
    Filter 6 of conv1 is zero, the norm's bias[6] is not: unit 6 is a constant that conv2 reads, it stays.
    So it is behind a sigmoid, whatever the bias: that is measured, see `_Effects`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.graph.calls import Call
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.graph.trace import ExampleInputs
from compress.thinning.complete import check_graph, cleared_units, closed_notes, gone_positions, zero_masks
from compress.thinning.proof.copies import put_on_copies, restored
from compress.thinning.proof.inputs import Samples
from compress.thinning.proof.observe import ForwardFailed, observe
from compress.thinning.proof.outputs import difference, not_repeatable
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.recipe import Recipe

Removed = dict[str, list[int]]


MASKING = 1e-6
"""Relative: what masking the rest of a zero unit may change, which is rounding."""


def zero_units(graph: ChannelGraph, model: nn.Module, example_inputs: ExampleInputs) -> tuple[Removed, tuple[str, ...]]:
    """The units that give nothing but zeros or that nothing reads, by group, and why other zero filters stay.

    Args:
        graph: from `prunable_graph`.
        model: the network; its weights are looked at, and it is run.
        example_inputs: as for `thin`.

    Returns:
        group name -> units, of groups that lose any, each of which keeps one; and a sentence for each group in which
        a whole filter or channel is zero and stays.

    Raises:
        UserError: the network computes something else each time.
    """
    parameters = dict(model.named_parameters())
    check_graph(graph, parameters)
    zeros = zero_masks(model)
    removed: Removed = {}
    notes: list[str] = []
    found = {group.name: _zero_sides(graph, group, parameters) for group in graph.groups()}
    open_ = {group.name: found[group.name] for group in graph.groups() if not group.pinned}
    calls = Samples.of(example_inputs, next(model.parameters()).device, model).given
    leaving = _Effects(graph, model, open_, calls).without()
    for group in graph.groups():
        zero = np.flatnonzero(np.logical_or(*found[group.name]))
        cleared = np.union1d(cleared_units(graph, group, zeros), zero)
        if group.pinned:
            if len(cleared):
                notes.append(f"{group.name}: {len(cleared)} zero units stay, {'; '.join(group.pinned)}")
            continue
        gone = np.asarray(leaving.get(group.name, []), dtype=int)
        if len(gone):
            removed[group.name] = gone[: group.units - 1].tolist()
        if len(gone) == group.units:
            notes.append(f"{group.name}: all {group.units} units are zero; one stays so that the layer exists")
        # A zero filter with a bias behind it gives a constant, and the next layer reads it.
        constant = np.setdiff1d(cleared, gone)
        if len(constant):
            notes.append(
                f"{group.name}: {len(constant)} units with zero filters stay: a bias or BatchNorm behind them is not "
                "zero, or a function makes something of zero, so that they give a constant, and without them the "
                "network would compute something else"
            )
    return {name: units for name, units in removed.items() if units}, (*notes, *closed_notes(model))


def in_both(first: Removed, second: Removed) -> Removed:
    """The units that are in both, by group."""
    both = {name: sorted(set(units) & set(second.get(name, ()))) for name, units in first.items()}
    return {name: units for name, units in both.items() if units}


Sides = tuple[np.ndarray, np.ndarray]
"""For each unit of a group whether it is zero on the writing side, and on the reading side."""
_Unit = tuple[str, int]
PERTURBED = Draw(0, buffers=False)
"""Buffers stay: a running mean of 0 behind a zero filter is one for good."""


def _zero_sides(graph: ChannelGraph, group: ChannelGroup, parameters: dict[str, nn.Parameter]) -> Sides:
    return _silent(graph, group, parameters), _unread(graph, group, parameters)


class _Effects:
    """What masking the rest of zero units changes.

    Args:
        graph: of the model.
        model: left as it was.
        zero: group name -> where its units are zero.
        calls: what the model is run with.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, zero: Mapping[str, Sides], calls: Sequence[Call]) -> None:
        self._graph, self._model, self._zero, self._calls = graph, model, zero, calls
        self._groups = {group.name: group for group in graph.groups()}
        self._parameters = dict(model.named_parameters())

    def without(self) -> Removed:
        """The units of which all the rest can be masked and no output changes: a binary search over all.

        Raises:
            UserError: the network computes something else each time, so that nothing can be said.
        """
        found: Removed = {}
        every = [
            (name, unit)
            for name, sides in self._zero.items()
            for unit in np.flatnonzero(np.logical_or(*sides)).tolist()
        ]
        for name, unit in self._search(every):
            found.setdefault(name, []).append(unit)
        if every and not found:
            self._check_repeatable()
        return found

    def _check_repeatable(self) -> None:
        for call in self._calls:
            by = self._change([], call, None)
            if by > MASKING:
                raise UserError(not_repeatable(self._model, by))

    def _search(self, units: Sequence[_Unit]) -> list[_Unit]:
        if not units or self._hold(units):
            return list(units)
        half = len(units) // 2
        return self._search(units[:half]) + self._search(units[half:]) if half else []

    def _hold(self, units: Sequence[_Unit]) -> bool:
        """On the network's own values, and on perturbed ones, for a branch may be closed today."""
        return all(self._change(units, call, draw) <= MASKING for draw in (None, PERTURBED) for call in self._calls)

    def _change(self, units: Sequence[_Unit], call: Call, draw: Draw | None) -> float:
        with restored(self._model):
            if draw is not None:
                perturb(self._model, draw)
            put_on_copies(self._model, self._masks(units, whole=False))
            try:
                before = observe(self._model, call, "eval")
            except ForwardFailed:  # perturbed values show nothing then; on its own values the proof reports it
                return 0.0
            put_on_copies(self._model, self._masks(units, whole=True))
            return difference(Recipe(), before, observe(self._model, call, "eval"))

    def _masks(self, units: Sequence[_Unit], whole: bool) -> dict[str, Tensor]:
        """The masks of units, or only of the sides on which they are zero."""
        found: dict[str, Tensor] = {}
        own: dict[str, list[int]] = {}
        for name, unit in units:
            own.setdefault(name, []).append(unit)
        for name, each in own.items():
            sides = [each if whole else [unit for unit in each if side[unit]] for side in self._zero[name]]
            gone = [gone_positions(self._groups[name], side) for side in sides]
            for place in self._groups[name].members:
                positions = gone[place in self._graph.reads].get(place)
                if positions is not None and place[0] in self._parameters:
                    parameter = self._parameters[place[0]]
                    mask = found.setdefault(place[0], torch.ones_like(parameter, dtype=torch.bool))
                    mask.index_fill_(place[1], torch.as_tensor(positions, device=mask.device), False)
        return found


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

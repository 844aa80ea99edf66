"""Coupled channel groups: what can be removed from a model, together with what, and why the rest cannot.

`channel_graph` (traces the model in eval and in training mode, so that auxiliary heads count) and
`ChannelGraph.groups()`, which explains itself. A *unit* is what can be removed on its own: a set of positions of
parameters and buffers, such as row 3 of a convolution, entry 3 of its norm and column 3 of the next one. A *group* is
a set of units of the same kind: they cover the same dimensions of the same tensors. Called by structured pruners,
thinning and `--list-groups`.

    graph = channel_graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 9, 9))
    group = graph.groups()[0]
    group.units                 # 8
    sorted(group.members)       # [('0.bias', 0), ('0.weight', 0), ('2.weight', 1)]
    graph.groups()[1].pinned    # ('network output (...)',): the rows of 2.weight
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from compress.graph.aliases import held_elsewhere, overlapping
from compress.graph.coupling import Choices, Coupling
from compress.graph.macs.by_weight import other_macs, weight_macs
from compress.graph.own_code import asks_for_inference, hooked, hooks_of, reads_widths, replaced_buffers
from compress.graph.rules.table import RULES
from compress.graph.sizes.decisions import by_inputs, undecided
from compress.graph.sizes.numbers import Decision
from compress.graph.trace import ExampleInputs, Trace
from compress.graph.training import traces_of
from compress.graph.units import Ids
from compress.graph.unread import Unread, held_by, misdeclared, unread_in
from compress.graph.values import Heads

Place = tuple[str, int]
"""A parameter's or buffer's full name, and one of its dimensions."""


@dataclass(frozen=True, eq=False)
class Pin:
    """Units that must stay, whatever the graph says, because a trial without them failed.

    Attributes:
        place: a tensor's dimension that they have positions in.
        positions: those positions.
        reason: why.
        within_heads: whether they are positions within heads, so that the heads themselves may go.
    """

    place: Place
    positions: Ids
    reason: str
    within_heads: bool = False

    @staticmethod
    def of(group: ChannelGroup, reason: str) -> Pin:
        """All units of a group."""
        place, unit_of = next(iter(group.members.items()))
        return Pin(place, np.flatnonzero(unit_of >= 0), reason, group.within_heads)


Cover = tuple[tuple[Place, int], ...]
"""What a unit covers: places, and how many positions of each."""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that cover the same dimensions of the same tensors.

    Attributes:
        name: the first parameter and dimension in it, such as `layer1.0.conv1.weight[0]`.
        units: how many there are; unless pinned, up to `units - 1` of them can be removed.
        members: place -> for each position of that dimension its unit in this group, -1 for another group's. A
            place may also be a number of a module that has no tensors (`norm.num_features` of a bare norm).
        pinned: why nothing of it can be removed; empty if it can.
        parameters_per_unit: elements of parameters that go with one unit (the mean over the units).
        macs_per_unit: multiply-accumulates of layers with weights that go with one unit, in all example calls.
        within_heads: whether a unit is the same position of every head of an attention; another group has the heads
            themselves as units, so that the two meet in the same rows, and a row goes when either of its units does.
    """

    name: str
    units: int
    members: dict[Place, Ids]
    pinned: tuple[str, ...]
    parameters_per_unit: float
    macs_per_unit: float
    within_heads: bool = False

    @property
    def prunable(self) -> int:
        """How many of its units could go: a group is never emptied."""
        return 0 if self.pinned else self.units - 1

    @property
    def why_kept(self) -> str:
        """Why none of its units can go; '' if one can."""
        alone = "all its positions leave together, as one unit, and one has to stay" if self.units == 1 else ""
        return "; ".join(self.pinned) or alone

    def positions(self, place: Place, unit: int) -> Ids:
        """The positions of one unit in one of the places."""
        return np.flatnonzero(self.members[place] == unit)

    def __str__(self) -> str:
        places = ", ".join(f"{name}[{dim}]" for name, dim in self.members)
        cost = f"{self.parameters_per_unit:,.0f} parameters and {self.macs_per_unit:,.0f} MACs each"
        state = f"pinned: {self.why_kept}" if self.why_kept else f"{self.prunable} prunable"
        return f"{self.name}: {self.units} unit{'s'[: self.units != 1]}, {state}; {cost}; members {places}"


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """All groups of a model.

    Attributes:
        parameters: full names of the parameters (members that are not among them are buffers or attributes).
        reads: places where a weight meets the channels that come in; all other places of a group write it.
        block_modules: grouped convolutions from which whole groups go, so that their number changes.
        computed: members that are not tensors of their module, which counts its channels by them (`conv.weight`, the
            product of `conv.weight_orig` and `conv.weight_mask`) -> their shape.
        asked: the calls that keep their shape in one of several ways, and how many ways there are.
        asked_for: group name -> those of the calls that handle its channels.
        risky: modules whose code may hold sizes as literals; a trial shows it (`compress.thinning.trials.trial`).
        tried_heads: modules whose positions within heads can go, if a trial confirms it.
        macs: weight name -> multiply-accumulates of all operations that read it, in all example calls.
        padded: layers with a norm over the channels -> their dimension, from the end: they keep the width before for
            their statistics (`compress/thinning/norms.py`).
        other_macs: those of operations that read no weight, such as products of two activations in attention.
        alike: whether the traces show that training mode computes what eval mode does.
        hooks: the hooks of other code that there were.
        notes: parts that are declared as unused and run, and paths that the code chooses by the size of the input.
    """

    _groups: tuple[ChannelGroup, ...]
    parameters: frozenset[str]
    reads: frozenset[Place]
    block_modules: frozenset[str]
    computed: dict[str, tuple[int, ...]]
    asked: dict[tuple[object, ...], int]
    asked_for: dict[str, tuple[tuple[object, ...], ...]]
    risky: frozenset[str]
    tried_heads: frozenset[str]
    macs: dict[str, int]
    padded: dict[str, int]
    alike: bool = False
    other_macs: int = 0
    hooks: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def places(self) -> frozenset[Place]:
        """Every dimension of a tensor that has channels."""
        return frozenset(place for group in self._groups for place in group.members)

    def groups(self, prunable_only: bool = False) -> tuple[ChannelGroup, ...]:
        """The groups in the order of the model's parameters."""
        return tuple(group for group in self._groups if group.prunable > 0 or not prunable_only)

    def groups_of(self, parameter: str, dim: int = 0) -> list[ChannelGroup]:
        """The groups that have positions in one dimension of a parameter (several after concatenation)."""
        return [group for group in self._groups if (parameter, dim) in group.members]

    def why_pinned(self, parameter: str, dim: int = 0) -> tuple[str, ...]:
        """All reasons that keep positions of this dimension; empty where all but one can go (by whole heads)."""
        groups = [group for group in self.groups_of(parameter, dim) if not group.within_heads]
        return tuple(dict.fromkeys(reason for group in groups for reason in group.pinned))

    def describe(self) -> str:
        """One line per group, prunable ones first; then what the examples do not show."""
        groups = [str(group) for group in sorted(self._groups, key=lambda group: bool(group.pinned))]
        return "\n".join([*groups, *self.notes])


def channel_graph(model: nn.Module, example_inputs: ExampleInputs, allow_inexact: bool = False) -> ChannelGraph:
    """Trace a model and find its coupled channel groups; sizes that are literals in the code are not tried.

    Args:
        model: any module, left as it was.
        example_inputs: a tensor, the tuple of `forward`'s arguments, or a list of calls (`calls.py`); shapes and types
            only.
        allow_inexact: let channels go through layer norms, whose statistics then change.

    Raises:
        UserError: the model cannot be traced.
    """
    return graph_of(model, traces_of(model, example_inputs), allow_inexact=allow_inexact)


def graph_of(
    model: nn.Module,
    traces: Sequence[Trace],
    choices: Choices | None = None,
    pins: Iterable[Pin] = (),
    distrusted: Collection[str] = (),
    allow_inexact: bool = False,
    heads: Heads | None = None,
) -> ChannelGraph:
    """The graph of traces that exist already.

    Attention is walked twice: whole heads as units, then the same positions of every head.

    Args:
        model: the traced model.
        traces: of eval mode and, where there is one, of training mode.
        choices: see `Coupling`.
        pins: what must stay, whatever the graph says.
        distrusted: see `Coupling`.
        allow_inexact: see `channel_graph`.
        heads: which modules are known to follow; `within` is set here.
    """
    heads, macs = heads or Heads(), weight_macs(traces)
    fixed = hooked(model) | overlapping(model) | held_elsewhere(model, traces)
    decisions: list[Decision] = []
    fixed |= replaced_buffers(model)

    def walked(heads: Heads) -> Coupling:
        coupling = Coupling(model, RULES, choices, distrusted, allow_inexact, heads)
        # `stays_zero` runs operations, and some draw random numbers (rrelu): the caller's generator must not move.
        with torch.random.fork_rng(devices=[]):
            for trace in traces:
                coupling.walk(trace)
                decisions.extend(by_inputs(coupling, trace))
        coupling.couple_unread([each.name for each in unread_in(model, traces)])
        for name, reason in fixed.items():
            if name in coupling.tensors:
                coupling.pin_all(coupling.tensors[name], reason)
        for each in (each for trace in traces for each in trace.elsewhere):
            held = [value for name, value in coupling.tensors.items() if each.counts(name)]
            for ids in (ids for value in held for ids in value.units if each.place not in coupling.tensors):
                coupling.units.pin(ids if ids is not None and len(ids) == each.size else None, each.reason)
        for pin in pins:
            ids = coupling.tensors[pin.place[0]].units[pin.place[1]]
            if pin.within_heads == heads.within and ids is not None:
                coupling.units.pin(ids[pin.positions], pin.reason)
        return coupling

    coupling = walked(replace(heads, within=False))
    groups, tried, inner = _groups_of(coupling, macs), set(), coupling
    if coupling.has_heads:
        inner = walked(replace(heads, within=True))  # one walk reads a view into (heads, positions) in one way only
        groups += _groups_of(inner, macs, within_heads=True)
        tried = set(inner.within) - {*heads.explicit, *heads.rigid}
    groups = _own_names(groups)  # trials and reports refer to groups by name
    return ChannelGraph(
        tuple(_held([each for each in unread_in(model, traces) if each.name not in coupling.tensors], traces, groups)),
        frozenset(coupling.parameters),
        frozenset(coupling.reads),
        frozenset(coupling.block_modules),
        {**inner.computed, **coupling.computed},
        dict(coupling.asked),
        _askers(groups, coupling),
        frozenset(coupling.risky) | ({""} if reads_widths(model) or asks_for_inference(model) else set()),
        frozenset(tried),
        macs,
        {**inner.padded, **coupling.padded},  # a norm over the positions within a head is in the inner walk alone
        all(trace.alike for trace in traces),
        other_macs(traces),
        hooks_of(model),
        (*misdeclared(model, traces), *undecided(decisions)),
    )


def _held(unread: list[Unread], traces: Sequence[Trace], groups: Sequence[ChannelGroup]) -> Iterable[ChannelGroup]:
    """The groups, pinned where a parameter that no call reads may be fed with them."""
    counts = {g.name: {len(ids) for ids in g.members.values()} for g in groups if g.prunable}
    untrained = next((trace.untrained for trace in traces if trace.untrained), "")
    reasons = held_by(unread, counts, untrained) if unread else {}
    return [replace(g, pinned=(reasons[g.name],)) if g.name in reasons else g for g in groups]


def _askers(groups: Sequence[ChannelGroup], coupling: Coupling) -> dict[str, tuple[tuple[object, ...], ...]]:
    """Group name -> the calls with several ways that handle its channels."""
    roots = {key: np.unique(np.concatenate(found)) for key, found in coupling.asked_for.items()}
    roots = {key: coupling.units.roots(ids) for key, ids in roots.items()}
    found, ours = {}, np.zeros(coupling.units.count, dtype=bool)
    for group in groups:
        (name, dim), unit_of = next(iter(group.members.items()))
        own = coupling.units.roots(coupling.tensors[name].units[dim][unit_of >= 0])  # type: ignore[index]
        ours[own] = True  # quicker than to compare each group with each call
        found[group.name] = tuple(key for key, others in roots.items() if ours[others].any())
        ours[own] = False
    return found


def _groups_of(coupling: Coupling, macs: dict[str, int], within_heads: bool = False) -> list[ChannelGroup]:
    """Sort the units by what they cover; units that cover the same, and are pinned alike, are a group.

    `within_heads` leaves those out that are not positions within heads: they are the same as without it.
    """
    roots = {
        (name, dim): coupling.units.roots(ids)
        for name in _ordered(coupling)
        for dim, ids in enumerate(coupling.tensors[name].units)
        if ids is not None
    }
    covers = _covers(roots)
    if within_heads:
        own = [coupling.units.roots(ids) for found in coupling.within.values() for ids in found]
        inner = np.unique(np.concatenate(own)) if own else np.arange(0)
        covers = {cover: np.intersect1d(units, inner) for cover, units in covers.items()}
    # A root that is not in here is free; one with reasons is listed as pinned; one with () is left out (a kernel).
    pinned = {root: tuple(reasons) for root, reasons in coupling.units.pinned().items()}
    kinds: dict[tuple[Cover, tuple[str, ...] | None], list[int]] = {}
    for cover, found in covers.items():
        for root in found.tolist():
            kinds.setdefault((cover, pinned.get(root)), []).append(root)
    first = {place: number for number, place in enumerate(roots)}
    # By the first place that a kind covers, then by its first unit: the order of the model, whatever the walk did.
    kinds = dict(sorted(kinds.items(), key=lambda kind: (first[kind[0][0][0][0]], kind[1][0])))
    groups = []
    for (cover, reasons), units in kinds.items():
        if all(name in coupling.numbers for (name, _), _ in cover):
            continue  # numbers that count no channels
        if reasons != ():
            group = _group(coupling, cover, reasons or (), sorted(units), roots, macs)
            groups.append(replace(group, within_heads=within_heads))
    return groups


def _covers(roots: Mapping[Place, Ids]) -> dict[Cover, Ids]:
    """What units cover -> all units that cover it, in order.

    The pairs (place, how many positions) of one unit stand in a row once all are sorted by unit; their bytes are a key.
    """
    places, each = list(roots), [np.unique(ids, return_counts=True) for ids in roots.values()]
    if not each:
        return {}
    units = np.concatenate([found for found, _ in each])
    numbers = np.repeat(np.arange(len(each)), [len(found) for found, _ in each])
    pairs = np.stack([numbers, np.concatenate([counts for _, counts in each])], axis=1)
    # Stable: within a unit the places stay in the order of the model, so that equal covers have equal bytes.
    order = np.argsort(units, kind="stable")
    units, pairs = units[order], pairs[order]
    borders = [*np.flatnonzero(np.diff(units, prepend=-1)).tolist(), len(units)]
    alike: dict[bytes, list[int]] = {}
    for start, end in itertools.pairwise(borders):
        alike.setdefault(pairs[start:end].tobytes(), []).append(start)
    known = {key: np.frombuffer(key, dtype=pairs.dtype).reshape(-1, 2).tolist() for key in alike}
    return {tuple((places[k], count) for k, count in known[key]): units[starts] for key, starts in alike.items()}


def _own_names(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """No two groups of one name: parts of one tensor can belong to several. Then a later one has another member's.

    A packed projection's groups: `in_proj_weight[0]` the heads, `in_proj_weight[0] within heads` queries and keys,
    `out_proj.weight[1] within heads` the values.
    """
    taken: set[str] = set()
    found = []
    for group in groups:
        ending = " within heads" if group.within_heads else ""
        names = [f"{name}[{dim}]{ending}" for name, dim in group.members]
        weights = [name for name in names if "weight[" in name]
        counted = [f"{names[0]} ({number})" for number in range(2, len(groups) + 2)]
        name = next(name for name in (names[0], *weights, *counted) if name not in taken)
        taken.add(name)
        found.append(replace(group, name=name))
    return found


def _group(
    coupling: Coupling,
    cover: Cover,
    reasons: tuple[str, ...],
    units: list[int],
    roots: dict[Place, Ids],
    macs: dict[str, int],
) -> ChannelGroup:
    members = {}
    for place, _ in cover:
        # searchsorted gives a place for absent roots as well; the comparison below sorts those out as -1.
        at = np.minimum(np.searchsorted(units, roots[place]), len(units) - 1)
        members[place] = np.where(np.asarray(units)[at] == roots[place], at, -1)
    parameters = macs_per_unit = 0.0
    shares: dict[str, float] = {}
    for (name, dim), count in cover:
        shape = coupling.tensors[name].shape
        # A unit can have rows and columns of one weight (weight_hh of an LSTM): they meet, so what is left multiplies,
        # 1 - (1 - 1/O)(1 - 1/I), and does not add up.
        left = shares.get(name, 1.0)
        shares[name] = left * (1 - count / shape[dim])
    for name, left in shares.items():
        if name in coupling.parameters:
            parameters += (1 - left) * math.prod(coupling.tensors[name].shape)
        macs_per_unit += (1 - left) * macs.get(name, 0)
    name, dim = cover[0][0]
    return ChannelGroup(f"{name}[{dim}]", len(units), members, reasons, parameters, macs_per_unit)


def _ordered(coupling: Coupling) -> list[str]:
    """Traced tensors: parameters in the order of the model, then buffers."""
    first = [name for name in coupling.parameters if name in coupling.tensors]
    return first + [name for name in coupling.tensors if name not in coupling.parameters]

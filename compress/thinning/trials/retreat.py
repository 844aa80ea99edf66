"""Which groups make a removal fail, so that those stay and all others can go.

`Trials`, how a removal is tried, `first_fault`, a binary search over the groups, and `retreat`, which continues until
what is left holds. Called by `probe` and by `thin`.

    groups  a b c d e f, of which c and e fail, with an error in a module that d, e and c have weights in
    trials  abcdef - , abf + , abfc -     -> c stays
            abfde - , abfd +              -> e stays
            abfd +
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compress.graph.channels import ChannelGraph, ChannelGroup
from compress.thinning.proof.verify import Outcome

Attempt = Callable[[Sequence[str]], Outcome]
"""Tries to remove units of the named groups together."""


@dataclass(frozen=True)
class Trials:
    """The trials of one graph.

    Attributes:
        graph: gives the groups.
        compares: a removal against masking, on real tensors.
        runs: only whether the network runs without them; one pass instead of several.
    """

    graph: ChannelGraph
    compares: Attempt
    runs: Attempt

    def full(self, names: Sequence[str]) -> Outcome:
        """Both, the quick one first."""
        outcome = self.runs(names)
        return outcome if outcome.reason else self.compares(names)

    def near(self, module: str) -> set[str]:
        """The groups that have tensors in a module, or whose channels go through its views."""
        inside = {g.name for g in self.graph.groups() if any(_inside(name, module) for name, _ in g.members)}
        asked = {name for name, keys in self.graph.asked_for.items() if any(key[0] == module for key in keys)}
        return asked if not module else inside | asked


def retreat(
    names: Sequence[str], trials: Trials, failed: Outcome, alike: Lookalikes
) -> tuple[list[str], dict[str, Outcome], Outcome]:
    """Give up groups until the rest goes through.

    Args:
        names: of groups.
        trials: how they are tried.
        failed: the outcome for all of them, which was none that holds.
        alike: what else a failing group stands for.

    Returns:
        the names that can go, those that cannot with what their removal led to, and the last outcome (`failed` if
        nothing can go).
    """
    left, outcome = list(names), failed
    faults: dict[str, Outcome] = {}
    held: list[str] = []
    while left and not outcome.passed:
        name, fault, held = first_fault(left, trials, outcome, held)
        faults.update(dict.fromkeys(alike.add(name, left, fault.module), fault))
        left = [each for each in left if each not in faults]
        held = [each for each in held if each not in faults]
        outcome = trials.full(left) if left else failed
    return left, faults, outcome


def first_fault(
    names: Sequence[str], trials: Trials, failed: Outcome, held: Sequence[str] = ()
) -> tuple[str, Outcome, list[str]]:
    """A group without which the others that were tried hold, and with which they fail.

    A binary search, which first leaves out what is near the module that failed.

    Args:
        names: of groups that fail together.
        trials: how they are tried.
        failed: how they fail.
        held: some that are known to hold together.

    Returns:
        the group, how it fails, and what holds without it.
    """
    # What fails in training mode only runs in eval mode, whatever is removed.
    attempt = trials.runs if failed.reason and failed.modes == ("eval",) else trials.compares
    good = list(held) if set(names) - set(held) else []  # what held alone may fail together with something else
    open_ = [name for name in names if name not in set(good)]
    while len(open_) > 1:
        near = trials.near(failed.module)
        far = [name for name in open_ if name not in near]
        # Most often the fault is near the module that failed: if all
        # that is far from it holds, one trial has ruled that out.
        part = far if 0 < len(far) < len(open_) else open_[: len(open_) // 2]
        outcome = attempt([*good, *part])
        if outcome.passed:
            good += part
            open_ = [name for name in open_ if name not in set(part)]
        else:
            open_, failed = part, outcome
    return open_[0], failed, good


def reason_of(outcome: Outcome) -> str:
    """Why a removal does not hold, in a sentence."""
    where = f"module {outcome.module!r}" if outcome.module else "the model's own forward"
    if outcome.reason:
        return f"its size is fixed in the code: a trial without some of it failed in {where}: {outcome.reason}"
    what = f": {outcome.what}" if outcome.what else ""
    size = f", by {outcome.difference:.1e} relative" if math.isfinite(outcome.difference) else ""
    return f"a trial without some of it changed what is computed in {where}{size}{what}"


ENOUGH = {True: 2, False: 3}
"""So many groups that play the same part have failed (in modules of one class; else by their name): all such stay."""


class Lookalikes:
    """Groups that play the same part as one that has failed.

    With an error in a module: groups that hold the same tensors of a module of the same class, `qkv.weight[0]` of an
    `Attention`. Else those of the same name but for its numbers.

    Args:
        model: gives the classes.
        graph: gives the groups.
    """

    def __init__(self, model: nn.Module, failed: dict[object, int] | None = None) -> None:
        self._kinds = {name: type(module) for name, module in model.named_modules()}
        self._failed = {} if failed is None else failed
        self._groups: Mapping[str, ChannelGroup] = {}

    def of(self, graph: ChannelGraph) -> Lookalikes:
        """The same memory with the groups of a graph."""
        self._groups = {group.name: group for group in graph.groups()}
        return self

    def add(self, name: str, names: Sequence[str], module: str) -> list[str]:
        """A group that failed in a module; once that was one too many, all that are like it among `names`."""
        part = self._part(name, module)
        by_class = bool(part)
        kind: object = (self._kinds.get(module), part) if by_class else re.sub(r"\d+", "#", name)
        self._failed[kind] = self._failed.get(kind, 0) + 1
        if self._failed[kind] < ENOUGH[by_class]:
            return [name]
        if not by_class:
            return [each for each in names if re.sub(r"\d+", "#", each) == kind]
        fellows = [each for each, cls in self._kinds.items() if cls is self._kinds[module]]
        alike = {each for each in names if any(self._part(each, fellow) == part for fellow in fellows)}
        return [each for each in names if each in alike or each == name]

    def _part(self, name: str, module: str) -> frozenset[tuple[str, int]]:
        """The tensors' names within a module, and their dimensions, that a group has there."""
        members = self._groups[name].members if module else {}
        return frozenset((place[len(module) + 1 :], dim) for place, dim in members if _inside(place, module))


def _inside(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")

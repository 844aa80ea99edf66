"""The network as each instance of a schedule finds it: as it is given, or as `Reparameterize` leaves it by then.

`Networks`. What acts after blocks are fused names the weights of the fused network, so that is what its selectors are
looked up in, and what its constructor sees: a fused copy, made when the schedule is read.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.config.checks.epochs import window_of
from compress.config.errors.faults import Report
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.fusing.blocks import exchange
from compress.fusing.reparameterize import Reparameterize
from compress.registry import EXTENSIONS
from compress.selectors import canonical, canonical_modules, canonical_parameters, expand, first_names, unwrapped


@dataclass(frozen=True)
class _Firing:
    """A policy of the document, as far as it can be read.

    Attributes:
        place: its number in the list.
        window: its epochs.
        instance: (policy key, instance's name), such as `("pruner", "agp")`.
    """

    place: int
    window: EpochWindow
    instance: tuple[str, str]


@dataclass(frozen=True)
class _Event:
    epoch: int
    place: int
    name: str


class Networks:
    """The networks of one schedule, in the order in which training comes to them.

    Args:
        model: as training begins.
        data: the schedule's sections.
        report: takes what is wrong with the blocks.

    Attributes:
        stages: the network before and after each fusing; only the first one is the real one.
        events: the fusings: epoch, number of the policy, instance.
    """

    def __init__(self, model: nn.Module, data: Mapping[str, Any], report: Report) -> None:
        self.stages = [model]
        self.events: list[_Event] = []
        self._firings = _firings(data, report)
        extensions = data.get("extensions") or {}
        fusers = {str(name): given for name, given in extensions.items() if _fuses(given)}
        found = [
            _Event(each.window.first, each.place, each.instance[1])
            for each in self._firings
            if each.instance[0] == "extension" and each.instance[1] in fusers
        ]
        for event in sorted(found, key=lambda each: (each.epoch, each.place)):
            try:
                self.stages.append(_fused(self.stages[-1], fusers[event.name].get("blocks")))
                self.events.append(event)
            except UserError as e:
                report.add(str(e), ("extensions", event.name))

    def of(self, key: str, name: str) -> list[int]:
        """The stages in which an instance acts, by number; the first one for an instance without policies.

        A policy that stands before a fusing of its own epoch acts on both sides of it: at the epoch's begin, and in
        its minibatches.
        """
        stages = {0} if not self.events else set()
        for each in self._firings if self.events else ():
            if each.instance == (key, name) or (
                key == "extension" and self._is_event(each) and each.instance[1] == name
            ):
                first, last = each.window.first, each.window.last
                lowest = sum((e.epoch, e.place) < (first, each.place) for e in self.events)
                highest = sum(e.epoch <= last for e in self.events)
                stages |= {lowest} if self._is_event(each) else {lowest, highest}
        return sorted(stages) or [0]

    def names(self, stage: int) -> dict[str, list[str]]:
        """Kind of selector -> what it may mean at a stage."""
        model = self.stages[stage]
        return {
            "weight": list(canonical_parameters(model)),
            "module": [name for name in canonical_modules(model) if name],
        }

    def second_names(self, stage: int) -> dict[str, dict[str, str]]:
        """Kind of selector -> each further name of something shared -> its first one, which `names` has."""
        model = self.stages[stage]
        named = model.named_parameters(remove_duplicate=False)
        first = {id(each): name for name, each in canonical_parameters(model).items()}
        pairs = {
            "weight": ((canonical(name, model), first[id(each)]) for name, each in named),
            "module": first_names(model).items(),
        }
        return {kind: {name: known for name, known in each if name != known} for kind, each in pairs.items()}

    def straddling(self, name: str, stages: list[int]) -> str:
        """The fault of an instance that means different weights before and after a fusing."""
        event = self.events[stages[0]]
        before, after = self.names(stages[0])["weight"], self.names(stages[-1])["weight"]
        lost = next((each for each in before if each not in after), before[0])
        return (
            f"{name!r} acts before and after {event.name!r} fuses blocks in epoch {event.epoch}, and what it names is "
            f"not the same on both sides ({lost!r}, for one, is there only before): make two instances of it, one that "
            f"ends before epoch {event.epoch} and one that acts from then on and stands after {event.name!r}"
        )

    def _is_event(self, firing: _Firing) -> bool:
        return any(event.place == firing.place for event in self.events)


def _firings(data: Mapping[str, Any], report: Report) -> list[_Firing]:
    """The policies that can be read; the faults of the others are reported where they are made."""
    quiet = Report(report.document)
    found = []
    given = data.get("policies")
    for place, entry in enumerate(given if isinstance(given, list) else []):
        if not isinstance(entry, Mapping):
            continue
        window = window_of(entry, ("policies", place), quiet)
        for key, component in entry.items():
            if window is not None and isinstance(component, Mapping) and "instance_name" in component:
                found.append(_Firing(place, window, (str(key), str(component["instance_name"]))))
    return found


def _fuses(given: Any) -> bool:
    name = given.get("class") if isinstance(given, Mapping) else None
    return isinstance(name, str) and name in EXTENSIONS and issubclass(EXTENSIONS.get(name), Reparameterize)


def _fused(model: nn.Module, blocks: Any) -> nn.Module:
    """A copy of a network with its blocks fused.

    Raises:
        UserError: there are none, or one cannot be fused.
    """
    try:
        copied = copy.deepcopy(unwrapped(model))
    except RuntimeError as e:
        raise UserError(f"this {type(unwrapped(model)).__name__} cannot be copied, so nothing can be fused: {e}") from e
    names: list[str] | None = None
    if blocks is not None:
        known = [name for name in canonical_modules(copied) if name]
        selectors = [blocks] if isinstance(blocks, str) else blocks
        chosen = [expand(each, known) for each in selectors if isinstance(each, str)]
        for each in chosen:  # one that matches nothing is reported where the instance is made
            if each:
                Reparameterize(each).fusions(copied)
        names = [name for each in chosen for name in each]
    exchange(copied, Reparameterize(names).fusions(copied).values())
    return copied

"""The channel graph, tried out: does the code really follow when each group loses a unit?

A view's sizes may be literals (`view(-1, 2704)`) or follow the tensor (`flatten(1)`); the traced graph looks the
same. Here: `prunable_graph` removes one unit of every group at once, runs the model on real tensors, and where that
fails changes the graph: another way to split the view, else the group that is at fault is pinned. Called by `thin`
and by everything that ranks channels.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError, some
from compress.graph.channels import ChannelGraph, ChannelGroup, Pin, graph_of
from compress.graph.coupling import Choices
from compress.graph.recording.garbage import old_objects_aside
from compress.graph.recording.variation import drawing_notes, under, variations
from compress.graph.trace import ExampleInputs
from compress.graph.training import traces_of
from compress.graph.values import Heads
from compress.thinning.attention.exchange import all_headed
from compress.thinning.norms import plain_norms
from compress.thinning.proof.inputs import Samples
from compress.thinning.proof.observe import ForwardFailed
from compress.thinning.proof.outputs import not_repeatable
from compress.thinning.proof.verify import Outcome, run_only, trial
from compress.thinning.recipe import Recipe
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.remade import remade_pins
from compress.thinning.trials.retreat import Lookalikes, Trials, first_fault, reason_of
from compress.thinning.trials.steep import steep_pins

ATTEMPTS = 64
"""Changes of the graph; what fails after so many is pinned at once."""

KINDS = 4
"""Kinds of modules whose views are read in the second way by themselves; each costs a walk."""


@checks_arguments
def prunable_groups(model: nn.Module, example_inputs: ExampleInputs) -> tuple[ChannelGroup, ...]:
    """The groups of coupled channels from which units can leave, as `prunable_graph` finds them.

    `print(group)` lists its members; the graph also has the other groups, and why they stay.

    Args:
        model: any module, left as it was.
        example_inputs: a tensor, the tuple of `forward`'s arguments, a dictionary of named ones, or a list of calls
            (`compress/graph/calls.py`).

    Raises:
        UserError: as for `prunable_graph`.
    """
    return prunable_graph(model, example_inputs).groups(prunable_only=True)


@checks_arguments
@old_objects_aside()
def prunable_graph(model: nn.Module, example_inputs: ExampleInputs, allow_inexact: bool = False) -> ChannelGraph:
    """The coupled channel groups of a model, as far as a trial removal confirms them.

    A group whose removal fails, however the graph is changed, is pinned; the reason names the module that failed. So is
    one whose masked channels would end training in NaN.

    Args:
        model: any module, left as it was.
        example_inputs: a tensor, the tuple of `forward`'s arguments, a dictionary of named ones, or a list of calls
            (`compress/graph/calls.py`).
        allow_inexact: see `channel_graph`.

    Raises:
        UserError: the model cannot be traced, does not run, or computes something else each time.
    """
    with all_headed(model) as explicit, plain_norms(model):
        traces = traces_of(model, example_inputs)
    inputs = Samples.all_alike(list(Samples.of(example_inputs, model=model).several))  # the same calls in all trials
    changes = Changes(model)
    for number in itertools.count():
        heads = Heads(False, explicit, changes.rigid)
        graph = graph_of(model, traces, changes.choices, changes.pins, changes.distrusted, allow_inexact, heads)
        # Pinned by the first way of a view, perhaps free by the second: no trial is needed to see which frees more.
        for position, ways in enumerate(_other_ways(model, graph) if not number else ()):
            ways = {**changes.choices, **ways}
            other = graph_of(model, traces, ways, allow_inexact=allow_inexact, heads=heads)
            if _removable(other) > _removable(graph):
                graph, changes.choices = other, ways
                if not position:  # all views at once
                    break
        # One unit of every group at once: if that runs, a single pass has tried them all.
        removed = {group.name: [group.units - 1] for group in graph.groups(prunable_only=True)}
        varied = bool(variations(model))
        if not (graph.risky or varied) or not removed:
            break
        modes = ("eval", "train") if varied else ("eval",)
        trials = trials_of(model, graph, removed, inputs, modes, own_values=False, allow_inexact=allow_inexact)
        # The comparison runs the network too; a pass for that alone is worth it once something has failed.
        outcome = trials.full(list(removed)) if number else trials.compares(list(removed))
        if outcome.passed:
            break
        # Checked only now, since it costs passes: outputs that
        # differ without any removal would be blamed on the groups.
        if not number and not outcome.reason:
            check_repeatable(model, trials)
        changes.make(trials, outcome, list(removed), only_pins=number >= ATTEMPTS)
    if late := [*steep_pins(model, graph, traces, inputs.several), *remade_pins(model, graph, inputs.several)]:
        pins = [*changes.pins, *late]
        graph = graph_of(model, traces, changes.choices, pins, changes.distrusted, allow_inexact, heads)
    return replace(graph, notes=(*graph.notes, *drawing_notes(model)))


def _other_ways(model: nn.Module, graph: ChannelGraph) -> list[Choices]:
    """The second way for views of channels that cannot go the first way: heads are averaged, say.

    For all such views, then for those of one kind of module after another, what holds most parameters first.
    """
    kinds: dict[tuple[Any, ...], Choices] = {}
    held: dict[tuple[Any, ...], float] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for group in graph.groups():
        for key in graph.asked_for[group.name] if group.pinned else ():
            if graph.asked[key] > 1:
                kind = type(modules.get(key[0])), key[1]
                kinds.setdefault(kind, {})[key] = 1
                held[kind] = held.get(kind, 0) + group.units * group.parameters_per_unit
    order = sorted(kinds, key=lambda kind: -held[kind])[:KINDS]
    everything = {key: 1 for ways in kinds.values() for key in ways}
    return [everything, *(kinds[kind] for kind in order if len(kinds) > 1)] if kinds else []


def _removable(graph: ChannelGraph) -> float:
    return sum(group.prunable * group.parameters_per_unit for group in graph.groups())


def trials_of(
    model: nn.Module,
    graph: ChannelGraph,
    removed: Mapping[str, list[int]],
    inputs: ExampleInputs | Samples,
    modes: Sequence[str] = ("eval", "train"),
    masks: Mapping[str, Tensor] | None = None,
    own_values: bool = True,
    allow_inexact: bool = False,
) -> Trials:
    """How a removal is tried; with `allow_inexact` the outputs may differ.

    Args:
        model: left as it was.
        graph: of the model.
        removed: group name -> units that go.
        inputs: real ones.
        modes: see `trial`.
        masks: see `trial`.
        own_values: see `trial`.
        allow_inexact: only an error is a failure.
    """

    def recipe(names: Sequence[str]) -> Recipe:
        return plan_recipe(model, graph, {name: removed[name] for name in names})

    def compared(names: Sequence[str]) -> Outcome:
        alike = graph.alike and not variations(model)  # in the traces it took one path of several
        return trial(model, recipe(names), masks or {}, inputs, modes[:1] if alike else modes, own_values)

    def compares(names: Sequence[str]) -> Outcome:
        try:
            outcome = compared(names)
        except ForwardFailed as error:
            raise UserError(
                f"{type(model).__name__} does not run on the example inputs: {error} (in {error.module!r})"
            ) from error
        for variation in variations(model) if outcome.passed else ():
            with under(variation), contextlib.suppress(ForwardFailed):  # it may not take images in that layout
                other = compared(names)
                if not other.passed:
                    outcome = replace(other, masking_change=outcome.masking_change)
                    break
        return replace(outcome, tolerance=float("inf")) if allow_inexact else outcome

    return Trials(graph, compares, lambda names: run_only(model, recipe(names), Samples.all_alike(inputs).several))


def check_repeatable(model: nn.Module, trials: Trials) -> None:
    """Raises UserError where the outputs differ although nothing was removed: then no removal can be proved."""
    outcome = trials.compares([])
    if outcome.reason:
        raise UserError(f"{type(model).__name__} cannot be thinned and is unchanged: {outcome.reason}")
    if not outcome.passed:
        raise UserError(not_repeatable(model, outcome.difference))


class Changes:
    """What trials have taught about a model's code.

    Args:
        model: gives the classes of the modules.

    Attributes:
        choices: see `Coupling`.
        pins: groups that no change helped.
        distrusted: modules whose views pin their channels.
        rigid: attention modules that follow the number of heads, not their size.
    """

    def __init__(self, model: nn.Module) -> None:
        self.choices: Choices = {}
        self.pins: list[Pin] = []
        self.distrusted: set[str] = set()
        self.rigid: set[str] = set()
        self._fellows = Fellows(model)
        self._failed = Lookalikes(model)

    def make(self, trials: Trials, outcome: Outcome, names: Sequence[str], only_pins: bool) -> None:
        """Change what is at fault: the module that failed, if it has sizes to change, else what fails of the groups.

        Args:
            trials: of the graph that failed.
            outcome: how it did.
            names: the groups that lost a unit.
            only_pins: look for no further way to split a view.
        """
        graph = trials.graph
        # As `first_parting` reports it: an infinite difference, with the operation's name.
        follows_width = not outcome.reason and bool(outcome.what) and math.isinf(outcome.difference)
        if not only_pins and outcome.reason and self._at(graph, outcome.module):
            return
        if not only_pins and follows_width and self._stiffen(graph, outcome.module):
            return  # such as scores / sqrt(head size): no search which group it was
        name, fault, _ = first_fault(names, trials, outcome)
        groups = {group.name: group for group in graph.groups()}
        if only_pins or not self._for(graph, groups[name]):
            alike = self._failed.of(graph).add(name, names, fault.module)
            self.pins += [Pin.of(groups[each], reason_of(fault) + _cut_by(graph, each)) for each in alike]

    def _at(self, graph: ChannelGraph, module: str) -> bool:
        """Try another way for the views of the module that failed, or pin them; False if nothing is left to try."""
        if self._stiffen(graph, module):
            return True
        if not self._change(graph, module):
            return False
        for other in self._fellows.of(module) - {module}:
            self._change(graph, other)
        return True

    def _stiffen(self, graph: ChannelGraph, module: str) -> bool:
        """Leave the positions within the heads of an attention; whether there were any that went."""
        stiff = graph.tried_heads & self._fellows.of(module)
        self.rigid |= stiff
        return bool(stiff)

    def _change(self, graph: ChannelGraph, module: str) -> bool:
        keys = [key for key, ways in graph.asked.items() if key[0] == module and self.choices.get(key, 0) < ways]
        for key in keys:
            self.choices[key] = self.choices.get(key, 0) + 1
        if not keys and module in graph.risky and module not in self.distrusted:
            self.distrusted.add(module)
            return True
        return bool(keys)

    def _for(self, graph: ChannelGraph, group: ChannelGroup) -> bool:
        """Another way for the views that a group's channels go through; False if there is none left."""
        if group.within_heads:
            owners = {module for module in graph.tried_heads for name, _ in group.members if _inside(name, module)}
            stiff = graph.tried_heads & {each for owner in owners for each in self._fellows.of(owner)}
            self.rigid |= stiff
            return bool(stiff)
        keys = [key for key in graph.asked_for[group.name] if self.choices.get(key, 0) < graph.asked[key]]
        for key in keys:
            self.choices[key] = self.choices.get(key, 0) + 1
        return bool(keys)


def _cut_by(graph: ChannelGraph, group: str) -> str:
    """The calls whose sizes may be numbers in the code that a group's channels go through, in words."""
    keys: Any = graph.asked_for[group]
    found = [f"{name} of {_sizes(old)} to {_sizes(new)} in {module or 'the model'}" for module, name, old, new in keys]
    return f"; of its size there may be a number in the code of {some(found, 2)}" if found else ""


def _sizes(shape: Any) -> str:
    """The shape of a tensor, or the shapes of several."""
    return " and ".join(str(each) for each in (shape if shape and isinstance(shape[0], tuple) else [shape]))


class Fellows:
    """Modules that fail alike: once a second module of a class has failed, all of that class are changed at once."""

    def __init__(self, model: nn.Module) -> None:
        self._kinds = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
        self._failed: dict[type[nn.Module], set[str]] = {}

    def of(self, module: str) -> set[str]:
        """The failing module, and its fellows."""
        kind = self._kinds[module]
        failed = self._failed.setdefault(kind, set())
        failed.add(module)
        return {module} if len(failed) == 1 else {name for name, each in self._kinds.items() if each is kind}


def _inside(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")

"""The channel graph, tried out: does the code really follow when each group loses a unit?

A view's sizes may be literals (`view(-1, 2704)`) or follow the tensor (`flatten(1)`); the traced graph looks
the same. Here: `prunable_graph` removes one unit of every group at once, runs the model on real tensors, and
where that fails changes the graph: another way to split the view, else the channels behind it are pinned.
Not here: the graph itself. Called by `thin` and by everything that ranks channels.
"""

from __future__ import annotations

from torch import nn

from compress.errors import UserError
from compress.graph.channels import ChannelGraph, Place, graph_of, traces_of
from compress.graph.coupling import Choices, Heads
from compress.graph.trace import ExampleInputs
from compress.thinning.attention import all_headed
from compress.thinning.plan import owner_of, plan_recipe
from compress.thinning.proof.observe import ForwardFailed
from compress.thinning.verify import Outcome, real_inputs, trial

ATTEMPTS = 64


def prunable_graph(model: nn.Module, example_inputs: ExampleInputs, allow_inexact: bool = False) -> ChannelGraph:
    """The coupled channel groups of a model, as far as a trial removal bears them out.

    Args:
        model: any module, left as it was.
        example_inputs: a tensor or the tuple of `forward`'s arguments.
        allow_inexact: see `channel_graph`.

    Raises:
        UserError: the model cannot be traced or does not run, or no graph was found that holds.
    """
    with all_headed(model) as explicit:
        traces = traces_of(model, example_inputs)
    inputs = real_inputs(example_inputs)
    choices: Choices = {}
    pins: set[Place] = set()
    distrusted: set[str] = set()
    rigid: set[str] = set()
    fellows = Fellows(model)
    for _ in range(ATTEMPTS):
        graph = graph_of(model, traces, choices, pins, distrusted, allow_inexact, Heads(False, explicit, rigid))
        if not graph.risky:
            return graph
        outcome = remove_one_of_each(model, graph, inputs)
        if outcome.passed or (allow_inexact and not outcome.reason):
            return graph
        stiff = graph.tried_heads & (fellows.of(outcome.module) if outcome.reason else graph.tried_heads)
        rigid |= stiff
        failed = outcome.module if outcome.reason else ""  # values differ behind the fault, not at it
        if not stiff and not _give_way(graph, failed, fellows, choices, pins, distrusted):
            raise UserError(
                f"removing channels from {type(model).__name__} fails in module {outcome.module!r}: "
                f"{outcome.reason or f'outputs differ by {outcome.difference:.1e}'}"
            )
    raise UserError(f"{type(model).__name__}: no consistent channel groups after {ATTEMPTS} trials")


def remove_one_of_each(model: nn.Module, graph: ChannelGraph, inputs: ExampleInputs) -> Outcome:
    """Try to remove the last unit of every prunable group, in eval mode."""
    removed = {group.name: [group.units - 1] for group in graph.groups(prunable_only=True)}
    recipe = plan_recipe(model, graph, removed)
    try:
        return trial(model, recipe, {}, inputs, modes=("eval",), own_values=False)
    except ForwardFailed as error:
        raise UserError(
            f"{type(model).__name__} does not run on the example inputs: {error} (in {error.module!r})"
        ) from error


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


def _give_way(
    graph: ChannelGraph, module: str, fellows: Fellows, choices: Choices, pins: set[Place], distrusted: set[str]
) -> bool:
    """Change the first thing that may be at fault, from the failing module outwards; False if nothing is left."""
    for name in _outwards(module):
        if _change(graph, name, choices, distrusted):
            for other in fellows.of(name) - {name}:
                _change(graph, other, choices, distrusted)
            return True
        own = {place for place in graph.reads if owner_of(place[0]) == name} - pins
        if own:
            pins |= own
            return True
    rest = graph.risky - distrusted
    distrusted |= rest
    return bool(rest)


def _change(graph: ChannelGraph, name: str, choices: Choices, distrusted: set[str]) -> bool:
    """Another way to split a module's views, or none any more; False if that has been tried."""
    open_choices = [key for key, ways in graph.asked.items() if key[0] == name and choices.get(key, 0) < ways]
    for key in open_choices:
        choices[key] = choices.get(key, 0) + 1
    if not open_choices and name in graph.risky and name not in distrusted:
        distrusted.add(name)
        return True
    return bool(open_choices)


def _outwards(module: str) -> list[str]:
    """`a.b.c` -> a.b.c, a.b, a and the model itself."""
    parts = module.split(".") if module else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]

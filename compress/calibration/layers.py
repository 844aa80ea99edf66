"""Which layers of a network can be set one after the other: in what order they run, and which own their weight.

`in_order`, `calls_of`, `with_other_weights`.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from compress.calibration.patches import inputs_of_a_channel, multiplies_by_its_weight
from compress.calibration.replay import first_input
from compress.graph.calls import run_on


def in_order(network: nn.Module, batch: Any) -> list[str]:
    """The convolutions and linear layers in the order in which they are called; those called twice are left out."""
    known = [name for name, each in network.named_modules() if inputs_of_a_channel(each) is not None]
    return [name for name, calls in calls_of(network, known, batch).items() if calls == 1]


def calls_of(network: nn.Module, names: Iterable[str], batch: Any) -> dict[str, int]:
    """How often modules are called, in the order of their first calls; those never called are left out."""
    found: dict[str, int] = {}

    def count(name: str) -> None:
        found[name] = found.get(name, 0) + 1

    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            module = network.get_submodule(name)
            hooks.callback(module.register_forward_hook(lambda *_, name=name: count(name)).remove)
        run_on(network, batch)
    return found


def with_other_weights(network: nn.Module, batch: Any) -> set[str]:
    """The layers that have no weight to themselves: their code standardises it, say, or another module holds it too."""
    known = {name: each for name, each in network.named_modules() if inputs_of_a_channel(each) is not None}
    holders = Counter(id(each) for module in network.modules() for each in module._parameters.values())
    found = {name for name, each in known.items() if holders[id(each._parameters.get("weight"))] > 1}

    def look(name: str, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not multiplies_by_its_weight(layer, first_input(layer, arguments, named)):
            found.add(name)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in known.items():
            hooks.callback(module.register_forward_pre_hook(partial(look, name), with_kwargs=True).remove)
        run_on(network, batch)
    return found

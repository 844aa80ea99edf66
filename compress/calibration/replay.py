"""Inputs and outputs of one layer while a network runs, no further than needed.

`passing`, `first_input`. Outputs are the layer's own: hooks of ours run in front of those that the user put on it,
so that what these make of an output is neither taken for the layer's nor lost for the layers behind.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.calls import run_on


class _Enough(Exception):
    """The layer has run; the rest of the forward pass is not needed."""


def first_input(module: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """What a call gives a module's first argument, by place or by name, as in `self.conv(input=x)`."""
    if arguments:
        return arguments[0]
    first = next(iter(inspect.signature(module.forward).parameters), "")
    return named[first] if first in named else next(iter(named.values()), None)


@torch.no_grad()
def passing(model: nn.Module, module: nn.Module, batches: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, own output) of a module's first call, batch by batch; what follows it is not computed."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(called: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        found.append((first_input(called, arguments, named).detach(), output.detach()))
        raise _Enough

    for batch in batches:
        handle = module.register_forward_hook(keep, prepend=True, with_kwargs=True)
        try:
            run_on(model, batch)
        except _Enough:
            pass
        finally:
            handle.remove()
        yield found.pop()

"""Inputs and outputs of one layer while a network runs, no further than needed.

`passing`, `first_input`, `in_front`. Outputs are the layer's own: hooks of ours run in front of those that the user put
on it or on all modules, so that what these make of an output is neither taken for the layer's nor lost for the layers
behind.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.modules.module as every_module
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


def in_front(module: nn.Module, hook: Callable[..., Any]) -> Callable[[], None]:
    """Puts a forward hook (module, arguments, named arguments, output) in front of all others that run for a module.

    Returns:
        what takes it off again.
    """
    if not every_module._global_forward_hooks:
        return module.register_forward_hook(hook, prepend=True, with_kwargs=True).remove

    # Hooks on all modules run before the module's own.
    def of_this(called: nn.Module, *given: Any) -> Any:
        return hook(called, *given) if called is module else None

    handle = every_module.register_module_forward_hook(of_this, with_kwargs=True)
    every_module._global_forward_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]

    def remove() -> None:
        handle.remove()
        every_module._global_forward_hooks_with_kwargs.pop(handle.id, None)  # which the handle leaves

    return remove


@torch.no_grad()
def passing(model: nn.Module, module: nn.Module, batches: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, own output) of a module's first call, batch by batch; what follows it is not computed."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(called: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        found.append((first_input(called, arguments, named).detach(), output.detach()))
        raise _Enough

    for batch in batches:
        remove = in_front(module, keep)
        try:
            run_on(model, batch)
        except _Enough:
            pass
        finally:
            remove()
        yield found.pop()

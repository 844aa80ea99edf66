"""Calibration data as one batch: layers that are changed one after another then take one pass instead of one each.

`together`, `outputs_of`, `on_first_call`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.calibration.replay import in_front
from compress.graph.calls import run_on

ROOM = 1 << 28  # numbers of the largest layer's output over all calibration data, at most
HELD = 1 << 29  # numbers that all layers give, at most, to be held at once
NEAR = 1e-3  # share of the output's norm

Change = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], Tensor | None]


@torch.no_grad()
def together(network: nn.Module, batches: Sequence[Any]) -> Tensor | None:
    """All batches as one, if the network computes the same of it.

    Args:
        network: float, in eval mode.
        batches: inputs.

    Returns:
        None: they are no single tensors of one form each, they would take too much memory, or the network does not
        treat each sample alone.
    """
    if not all(isinstance(each, Tensor) and each.dim() for each in batches):
        return None
    if len({(each.shape[1:], each.dtype, each.device) for each in batches}) != 1:
        return None
    merged = torch.cat(list(batches))
    largest = [0]

    def measure(_: nn.Module, __: Any, ___: Any, output: Any) -> None:
        largest[0] = max([largest[0], *(each.numel() for each in _tensors(output))])

    with on_first_call({name: each for name, each in network.named_modules() if name}, measure):
        outputs = [_tensors(run_on(network, batches[0]))]
    if largest[0] * len(merged) > ROOM * len(batches[0]):
        return None
    outputs += [_tensors(run_on(network, each)) for each in batches[1:]]
    try:
        given = _tensors(run_on(network, merged))
    except (RuntimeError, ValueError):  # written for one size of batches
        return None
    parts = zip(*outputs, strict=True) if len({len(each) for each in outputs}) == 1 else iter(())
    wanted = [torch.cat(each) for each in parts if all(part.dim() for part in each)]
    return merged if len(wanted) == len(given) and all(map(_near, given, wanted)) else None


@torch.no_grad()
def outputs_of(network: nn.Module, names: Sequence[str], merged: Tensor) -> dict[str, Tensor] | None:
    """What the first call of each layer gives by itself, in the order of calls; None if that is too much to hold."""
    found: dict[str, Tensor] = {}
    size = 0

    def keep(name: str, _: nn.Module, __: Any, ___: Any, output: Tensor) -> None:
        nonlocal size
        size += output.numel()
        if size <= HELD:
            found[name] = output.clone()  # an activation in place may follow
        else:
            found.clear()

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(on_first_call({name: network.get_submodule(name)}, partial(keep, name)))
        run_on(network, merged)
    return found if size <= HELD else None


@contextmanager
def on_first_call(modules: Mapping[str, nn.Module], change: Change) -> Iterator[None]:
    """Inside, the first call of each module is followed by `change(module, arguments, named arguments, output)`.

    What that returns, if anything, takes the output's place. Hooks that the module has come after it.
    """
    called: set[int] = set()

    def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if id(module) in called:
            return None
        called.add(id(module))
        return change(module, arguments, named, output)

    removing = [in_front(module, hook) for module in modules.values()]
    try:
        yield
    finally:
        for remove in removing:
            remove()


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(output) if isinstance(each, Tensor)]


def _near(given: Tensor, wanted: Tensor) -> bool:
    if given.shape != wanted.shape:
        return False
    given, wanted = given.double(), wanted.double()
    return bool((given - wanted).norm() <= NEAR * wanted.norm() + 1e-12)

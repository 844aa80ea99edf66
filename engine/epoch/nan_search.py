"""Which module gave the first number that is not finite, in the network or one trained beside it.

`first_not_finite`, one forward pass with hooks; `not_finite_weights`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.distributed import by_itself
from compress.selectors import canonical
from engine.environment import random_state, restore_random_state


class Finding(NamedTuple):
    """What the search found.

    Attributes:
        words: for a message.
        weights: whether weights were not finite before the step.
        placed: whether it names a place; False where everything looked at is finite.
    """

    words: str
    weights: bool = False
    placed: bool = True


def first_not_finite(
    networks: Mapping[str, nn.Module], group: Sequence[Any], forward: Callable[[Any], object]
) -> Finding:
    """Repeats the forward passes of an update's minibatches and looks at what each module gives.

    Companions must be as they were before the step: an update on what is not finite breaks all of their weights.
    Random numbers are put back; buffers, such as running means, and companions are moved once more. Each of several
    processes searches by itself: what is wrong in one need not be in another.

    Args:
        networks: name -> network; the wanted one's name is empty, a companion's begins the names of its modules.
        group: the minibatches.
        forward: the forward pass of one minibatch, not compiled.
    """
    if not finite(group):
        return Finding("the minibatch itself holds numbers that are not finite")
    broken = not_finite_weights(networks)
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return Finding(f"the weights {broken[0]}{more} were not finite before it: the update before made them so", True)
    found: list[str] = []
    with _as_before(networks), by_itself(), _watched(_modules(networks), found):
        for batch in group:
            forward(batch)
    if found:
        return Finding(f"the first module that gave numbers that are not finite is {found[0]}")
    words = "every module gives finite numbers, so the loss itself or a term that a policy adds is not finite"
    return Finding(words, placed=False)


def finite(value: Any) -> bool:
    """Whether all floating-point numbers in tensors, however they are packed, are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(finite(each) for each in value.values())
    return all(finite(each) for each in value) if isinstance(value, Iterable) and not isinstance(value, str) else True


def not_finite_weights(networks: Mapping[str, nn.Module]) -> list[str]:
    """Names of parameters that hold NaN or infinity; a companion's begin with its own name, such as `netD.`."""
    return [
        f"{name}.{own}" if name else own
        for name, module in _modules(networks).items()
        for own, parameter in module.named_parameters(recurse=False)
        if not finite(parameter.detach())
    ]


def _modules(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """All modules of the network and its companions, each once: a companion may be a part of the network."""
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()  # which named_modules fills and leaves out
    for prefix, network in networks.items():
        for name, module in network.named_modules(seen, prefix):
            short = canonical(name.removeprefix(prefix).removeprefix("."), network)
            found[".".join(filter(None, (prefix, short)))] = module
    return found


@contextmanager
def _watched(modules: Mapping[str, nn.Module], found: list[str]) -> Iterator[None]:
    """Adds to `found` each module whose output is not finite, in the order in which they finish."""

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not finite(output):
                found.append(f"{name or 'the network'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_before(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """The random state comes back afterwards; nothing waits for other processes."""
    state, modules = random_state(), networks[""].modules()
    synchronized = [each for each in modules if isinstance(each, nn.SyncBatchNorm) and each.training]
    for norm in synchronized:  # it would wait for the other processes
        norm.training = False
    try:
        yield
    finally:
        for norm in synchronized:
            norm.training = True
        restore_random_state(state)

"""A bound on what is built from arguments that anyone may have written: numbers become sizes, and loops over layers.

`bounded`. Numbers themselves have no bound: a seed or a constant of a formula may be large.
"""

import contextlib
import os
import weakref
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from compress.errors import UserError

MOST_TENSORS = 20_000  # parameters and buffers of one network
UNKNOWN_MEMORY = 1 << 40  # bytes, where the system does not say


class OutOfBoundsError(UserError):
    """A network that is being built is beyond what can be."""


@contextlib.contextmanager
def bounded(memory: int | None = None) -> Iterator[None]:
    """Inside, building a network ends with an error as soon as it is larger than this machine's memory, or endless.

    A layer's weights are seen before they are drawn, so their memory is not touched yet.

    Args:
        memory: bytes that parameters and buffers may have; None is what the machine has.

    Raises:
        OutOfBoundsError: they would have more, or they are more than `MOST_TENSORS`.
    """
    limit = _memory() if memory is None else memory
    seen: list[weakref.ref[Tensor]] = []
    total = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is None or is_lazy(tensor):
            return
        seen.append(weakref.ref(tensor))
        if len(seen) > MOST_TENSORS:
            raise OutOfBoundsError(f"it has more than {MOST_TENSORS:,} parameters and buffers")
        total += _bytes(tensor)
        if total > limit:
            there = {id(each): each for each in (ref() for ref in seen) if each is not None}
            total = sum(map(_bytes, there.values()))  # some were dropped again, or are registered twice
        if total > limit:
            raise OutOfBoundsError(
                f"its weights need {total / 1e9:,.0f} GB and more, and this machine's memory is {limit / 1e9:,.0f} GB"
            )

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _memory() -> int:
    """Bytes of this machine's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY

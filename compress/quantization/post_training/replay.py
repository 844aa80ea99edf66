"""Inputs and outputs of one layer while a network runs, no further than needed.

`passing`, `set_aside`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.trace import as_arguments
from compress.quantization.layers import OUTPUT, LateFrozen, QuantActivation, QuantLayer, kind_of, slots_of


class _Enough(Exception):
    """The layer has run; the rest of the forward pass is not needed."""


@torch.no_grad()
def passing(model: nn.Module, module: nn.Module, batches: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, output) of a module's first call, batch by batch; what follows it is not computed."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        found.append((inputs[0].detach(), output.detach()))
        raise _Enough

    for batch in batches:
        handle = module.register_forward_hook(keep)
        try:
            model(*as_arguments(batch))
        except _Enough:
            pass
        finally:
            handle.remove()
        yield found.pop()


@contextlib.contextmanager
def set_aside(model: nn.Module, weights_only: bool = False) -> Iterator[None]:
    """Inside the block nothing is rounded (`weights_only`: no weight or bias); a fused ReLU stays a ReLU."""
    held: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        if isinstance(module, QuantLayer):
            slots = [slot for slot in slots_of(module) if not (weights_only and kind_of(slot) == "activation")]
            held += [(module, slot, getattr(module, slot)) for slot in slots if getattr(module, slot) is not None]
        elif isinstance(module, QuantActivation | LateFrozen) and not weights_only:
            own = ((slot, getattr(module, slot)) for slot in slots_of(module))
            held += [(module, slot, piece) for slot, piece in own if piece is not None]
    for module, slot, piece in held:
        stand_in = nn.Identity() if getattr(piece, "signed", True) else nn.ReLU()
        setattr(module, slot, stand_in if slot == OUTPUT else None)
    try:
        yield
    finally:
        for module, slot, piece in held:
            setattr(module, slot, piece)

"""Inputs and outputs of one layer while a network runs, no further than needed.

`passing`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.calls import run_on


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
            run_on(model, batch)
        except _Enough:
            pass
        finally:
            handle.remove()
        yield found.pop()

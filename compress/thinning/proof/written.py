"""Weights that a network's own code writes while it runs: `kept_weights`.

An embedding with `max_norm`, an encoder that follows another one by a moving average, a weight that is clipped or
normed in place. Called around each pass of a proof.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compress.graph.dropout import NoDropout
from compress.thinning.recipe import tensors_of


@contextlib.contextmanager
def kept_weights(model: nn.Module, watch: NoDropout) -> Iterator[dict[str, Tensor]]:
    """Parameters are put back, if an operation writes into their memory inside; what is yielded names those.

    They are copied just before the first write, so that a network that writes none costs nothing.

    Args:
        model: what runs inside.
        watch: under which it runs.
    """
    places: dict[int, list[tuple[str, Tensor, Tensor]]] = {}
    for name, tensor in tensors_of(model).items():
        if isinstance(tensor, nn.Parameter) and not tensor.is_meta and tensor.layout == torch.strided:
            places.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor, tensor.data))
    saved: list[tuple[Tensor, Tensor]] = []
    written: dict[str, Tensor] = {}

    def before_write(target: Tensor) -> None:
        if target.layout != torch.strided:
            return
        for name, tensor, data in places.pop(target.untyped_storage().data_ptr(), ()):
            saved.append((data, data.clone()))
            written[name] = tensor

    watch.before_write = before_write
    try:
        yield written
    finally:
        watch.before_write = None
        with torch.no_grad():
            for data, value in saved:
                data.copy_(value)

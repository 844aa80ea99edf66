"""Which tensors of a trace are the same memory: a write through a view changes what is known of its base, too.

`Aliases`, which sorts the nodes of a trace by the storage of their tensors, and `written`, the arguments that a call
writes.

    y = conv(x)             # storage 7
    y.flatten(1).add_(1)    # a view, storage 7: add_ writes it
    y.sum(1)                # reads storage 7: what was zero in y is not any more
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node


class Aliases:
    """Nodes by storage.

    Args:
        nodes: of one trace, inputs and calls.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._of: dict[int, list[Node]] = {}
        for node in nodes:
            for key in _storages(node):
                self._of.setdefault(key, []).append(node)

    def of(self, node: Node) -> list[Node]:
        """All nodes that may show the memory of this one, itself among them."""
        return list(dict.fromkeys(alias for key in _storages(node) for alias in self._of.get(key, [])))


def written(node: Node) -> list[Node]:
    """The arguments that a call writes: `self` of an in-place operation, `out`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    found: list[Any] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            found += given if isinstance(given, list | tuple) else [given]
    return [each for each in found if isinstance(each, Node)]


def _storages(node: Node) -> set[int]:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return {_unwrapped(tensor).untyped_storage()._cdata for tensor in tensors if isinstance(tensor, torch.Tensor)}


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside: `torch.vmap` and `torch.func.grad` wrap theirs."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor

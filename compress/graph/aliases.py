"""Which tensors of a trace are the same memory: a write through a view changes what is known of its base, too.

`Aliases`, which sorts the nodes of a trace by the storage of their tensors, and `written`, the arguments that a call
writes. `overlapping` finds parameters and buffers of a model that share memory without being one tensor.

    y = conv(x)             # storage 7
    y.flatten(1).add_(1)    # a view, storage 7: add_ writes it
    y.sum(1)                # reads storage 7: what was zero in y is not any more
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from compress.graph.recording.fakes import memory_of
from compress.graph.trace import Trace


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


def overlapping(model: nn.Module) -> dict[str, str]:
    """Parameters and buffers that lie in one memory as several tensors -> why they cannot lose units.

    A removal gives each tensor new memory, and what one learns would not reach the other any more. Tensors side by side
    in one memory (the weights of an LSTM on a GPU) are apart. One tensor registered under several names is one.
    """
    spans = sorted(
        (start, end, name)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        for start, end in _span(tensor)
    )
    found: dict[str, str] = {}
    reach, holder = 0, ""
    for start, end, name in spans:
        if start < reach:
            why = SHARED.format(holder, name)
            found.setdefault(holder, why)
            found.setdefault(name, why)
        if end > reach:
            reach, holder = end, name
    return found


SHARED = (
    "{} and {} lie in the same memory as two tensors, which a removal would part: register one and the same "
    "Parameter under both names, or compute one from the other in forward"
)


def held_elsewhere(model: nn.Module, traces: Iterable[Trace]) -> dict[str, str]:
    """Parameters and buffers of which the code reads another view, which it keeps itself -> why they stay."""
    kept = [node.meta["value"] for trace in traces for node in trace.constants if "value" in node.meta]
    own = {id(each) for each in (*model.parameters(), *model.buffers())}
    spans = [span for each in kept if id(each) not in own for span in _span(each)]
    named = (*model.named_parameters(), *model.named_buffers()) if spans else ()
    return {
        name: KEPT.format(name)
        for name, tensor in named
        if any(start < last and first < end for first, last in _span(tensor) for start, end in spans)
    }


KEPT = (
    "forward reads the memory of {} through a tensor that the code keeps beside it, which a removal would part: read "
    "the parameter itself in forward"
)


def _span(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """The first byte of a tensor and the one behind its last; nothing for index tables and what has no plain memory."""
    plain = tensor.layout == torch.strided and type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
    if plain and tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.data_ptr()
        if start:
            yield start, start + (last + 1) * tensor.element_size()


def _storages(node: Node) -> set[int]:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return {memory_of(_unwrapped(tensor)) for tensor in tensors if isinstance(tensor, torch.Tensor)}


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside: `torch.vmap` and `torch.func.grad` wrap theirs."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor

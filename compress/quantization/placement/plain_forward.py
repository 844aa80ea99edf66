"""Layers of a class derived from torch's whose `forward` only pads: the trace tells them from those that do more.

`computing`: a `Conv2d` that pads as TensorFlow does may be quantized as any convolution; one that standardises its
weight, adds a low-rank term or scales its output may not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import Node

from compress.graph.trace import Trace, call_of
from compress.quantization.modules.layers import LAYERS, quantized_class
from compress.quantization.placement.signs import PASSING, plain_name, zero_pad

OPERATIONS: dict[type[nn.Module], str] = {
    nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d", nn.Linear: "linear",
    nn.ConvTranspose1d: "conv_transpose1d", nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}  # fmt: skip
INHERITED = ("forward", "_conv_forward", "_output_padding", "__call__", "__getattr__", "weight", "bias")


def is_derived(module: nn.Module) -> bool:
    """Whether a module that has a quantized form is of a class derived from torch's."""
    return type(module) not in LAYERS and quantized_class(module) is not None


def inherits_forward(module: nn.Module) -> bool:
    """Whether a derived class leaves torch's computation as it is, as far as its attributes tell."""
    base = next(cls for cls in type(module).__mro__ if cls in LAYERS)
    return all(getattr(type(module), name, None) is getattr(base, name, None) for name in INHERITED)


def computing(
    modules: Mapping[str, nn.Module], owners: Mapping[Node, str], tensors: Mapping[Node, Any], trace: Trace
) -> tuple[set[str], set[str]]:
    """The derived layers that the traced pass calls, and those of them that do more than pad and their one operation.

    Args:
        modules: by canonical name.
        owners: operation -> the module that makes it.
        tensors: placeholder -> the parameter or buffer that it stands for.
        trace: of the network.
    """
    derived = {name for name, module in modules.items() if is_derived(module)}
    inside: dict[str, list[Node]] = defaultdict(list)
    for node in trace.operations if derived else ():
        name = owners[node]
        for parent in (name[:i] for i in [*(i for i, sign in enumerate(name) if sign == "."), len(name)]):
            if parent in derived:
                inside[parent].append(node)
    more = {name for name, nodes in inside.items() if not _only_pads(name, modules[name], nodes, owners, tensors)}
    return set(inside), more


def _only_pads(
    name: str, module: nn.Module, nodes: list[Node], owners: Mapping[Node, str], tensors: Mapping[Node, Any]
) -> bool:
    """Whether all that a layer's calls compute is one operation each, of the padded input and the layer's tensors."""
    operation = next(OPERATIONS[cls] for cls in type(module).__mro__ if cls in OPERATIONS)
    found = [node for node in nodes if owners[node] == name and plain_name(node) == operation]
    left = set(nodes) - set(found)
    for node in found:
        given: list[Any] = [node.args[i] if len(node.args) > i else node.kwargs.get(key) for i, key in OPERANDS]
        read = [None if each is None else tensors.get(each) for each in given]
        if any(tensor is not module._parameters.get(key) for tensor, (_, key) in zip(read, OPERANDS, strict=True)):
            return False
        left -= _pads(node, left)
    return not left and len({call_of(node) for node in found}) == len(found)


OPERANDS = ((1, "weight"), (2, "bias"))


def _pads(node: Node, inside: set[Node]) -> set[Node]:
    """The operations of the layer between its input and its operation, while they leave values as they are."""
    found: set[Node] = set()
    reader: Node = node
    source: Any = node.args[0]
    while source in inside and (plain_name(source) in PASSING or zero_pad(source)) and set(source.users) == {reader}:
        found.add(source)
        reader, source = source, source.args[0]
    return found

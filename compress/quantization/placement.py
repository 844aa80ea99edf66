"""What each layer of a network reads, found in its trace.

Here: whether a layer's input was quantized where it was made, whether it can be negative, which BatchNorm follows a
convolution, how often a module is called. Not here: who decides by it (base.py), the trace (compress/graph/trace.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import Node

from compress.graph.trace import module_of, operation_name, trace_model
from compress.selectors import canonical, first_names

WEIGHTED = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
PASSING = {  # operations whose results are among their operand's values (and zero)
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "amax", "flatten", "reshape", "view", "permute",
    "transpose", "t", "movedim", "contiguous", "clone", "detach", "dropout", "feature_dropout", "alias", "squeeze",
    "unsqueeze", "slice", "select", "narrow", "split", "chunk", "getitem", "split_with_sizes", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "expand",
    "unflatten", "roll", "flip", "repeat", "index_select", "to", "_to_copy",
}  # fmt: skip
POSITIVE = {"relu", "sigmoid", "hardsigmoid", "softmax", "softplus", "exp", "square", "abs", "relu6"}
KEEPING_SIGN = {  # not bicubic interpolation, which overshoots
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "sum", "cat", "stack", "concat", "add", "mul", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """The input of a layer.

    Attributes:
        quantized: it was quantized where it was made, by one activation module.
        left_float: it comes from an activation that was told to stay float.
        signed: it may be negative.
        is_input: it is the network's input, or computed from it without any layer.
        made_by: the operation that made it, for people.
    """

    quantized: bool
    left_float: bool
    signed: bool
    is_input: bool
    made_by: str


@dataclass(frozen=True)
class Graph:
    """What the trace says about modules, by canonical name.

    Attributes:
        readings: layer -> what each of its calls reads.
        norms: convolution or linear layer -> the BatchNorm that alone reads its output.
        calls: module -> number of its calls.
        useful: activation modules whose output reaches some layer.
        order: layers in the order of their first call.
    """

    readings: dict[str, list[Reading]]
    norms: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    useful: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)


def read_graph(
    model: nn.Module,
    example_inputs: Any,
    layers: Collection[str],
    activations: Collection[str],
    float_activations: Collection[str],
) -> Graph:
    """Trace a network and see what its layers read.

    Args:
        model: the float network; wrappers are taken off by the caller.
        example_inputs: a tensor or the tuple of positional arguments.
        layers: names of the layers whose inputs are asked for.
        activations: names of the activation modules that will be quantized.
        float_activations: names of those that were told to stay float.

    Raises:
        UserError: the model cannot be traced.
    """
    trace = trace_model(model, example_inputs)
    names = first_names(model)
    owners = {node: names[canonical(module_of(node), model)] for node in [*trace.placeholders, *trace.operations]}
    calls = [(node, owners[node]) for node in trace.operations]
    walk = _Walk(owners, set(layers), set(activations), set(float_activations))
    graph = Graph({})
    for node, name in calls:
        if _is_layer(node) and name in walk.layers:
            graph.readings.setdefault(name, []).append(walk.reading(node.args[0]))
        if name in walk.activations and walk.reaches_layer(node):
            graph.useful.add(name)
        if _is_layer(node) and (norm := _norm_behind(node)) is not None:
            graph.norms[name] = owners[norm]
        if _is_layer(node) or operation_name(node) == "embedding" or name in walk.activations:
            graph.calls[name] += 1
    ordered = [name for node, name in calls if name in walk.layers and (_is_layer(node) or _embeds(node))]
    graph.order.extend(dict.fromkeys(ordered))
    once = {name: norm for name, norm in graph.norms.items() if graph.calls[name] == 1}
    graph.norms.clear()
    graph.norms.update(once)
    return graph


class _Walk:
    """Walks back from what a layer reads to what made it."""

    def __init__(self, owners: dict[Node, str], layers: set[str], activations: set[str], left: set[str]) -> None:
        self.owners, self.layers, self.activations, self.left = owners, layers, activations, left

    def reading(self, operand: Any) -> Reading:
        source = _source(operand)
        name = self.owners[source]
        return Reading(
            quantized=name in self.activations,
            left_float=name in self.left,
            signed=not _non_negative(source),
            is_input=not any(_is_layer(node) or _embeds(node) for node in _ancestors(source)),
            made_by=operation_name(source) if source.op == "call_function" else "the network's input",
        )

    def reaches_layer(self, node: Node) -> bool:
        seen, todo = {node}, [node]
        while todo:
            for user in todo.pop().users:
                if _is_layer(user) and self.owners[user] in self.layers:
                    return True
                if user not in seen:
                    seen.add(user)
                    todo.append(user)
        return False


def _source(operand: Any) -> Node:
    """The operation that made the values of an operand."""
    node: Node = operand
    while node.op == "call_function" and _plain_name(node) in PASSING and isinstance(node.args[0], Node):
        node = node.args[0]
    while node.op == "call_function" and _zero_pad(node) and isinstance(node.args[0], Node):
        node = _source(node.args[0])
    return node


def _plain_name(node: Node) -> str:
    """The operation's name without the mark of in-place ones."""
    name = operation_name(node)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _zero_pad(node: Node) -> bool:
    """Whether it pads with zeros or with the operand's own values."""
    name = _plain_name(node)
    rest: Any = node.args[2:]
    if name == "constant_pad_nd":
        return not rest or rest[0] in (0, None)
    if name != "pad":
        return False
    return len(rest) < 2 or rest[0] != "constant" or rest[1] in (0, None)


def _non_negative(node: Node, depth: int = 24) -> bool:
    """Whether the values cannot be negative, as far as the operations tell."""
    if node.op != "call_function" or depth == 0:
        return False
    name = _plain_name(node)
    if name in POSITIVE:
        return True
    if name in ("hardtanh", "clamp"):
        low = node.args[1] if len(node.args) > 1 else -1.0
        return isinstance(low, int | float) and low >= 0
    if name == "add" and _subtracts(node):
        return False
    if name in KEEPING_SIGN or name in PASSING or _zero_pad(node):
        operands = [each for each in _operands(node) if not isinstance(each, str)]
        return bool(operands) and all(
            _non_negative(each, depth - 1) if isinstance(each, Node) else each >= 0 for each in operands
        )
    return False


def _subtracts(add: Node) -> bool:
    """Whether the second operand's factor is negative, as in `torch.add(a, b, alpha=-1)`."""
    factor: Any = add.kwargs.get("alpha", add.args[2] if len(add.args) > 2 else 1)
    return not isinstance(factor, int | float) or factor < 0


def _operands(node: Node) -> Iterator[Any]:
    first = node.args[0]
    if isinstance(first, list | tuple):
        yield from first
        return
    yield first
    if _plain_name(node) in ("add", "mul") and len(node.args) > 1:
        yield node.args[1]


def _ancestors(node: Node) -> Iterator[Node]:
    seen, todo = {node}, [node]
    while todo:
        current = todo.pop()
        yield current
        for each in current.all_input_nodes:
            if each not in seen:
                seen.add(each)
                todo.append(each)


def _is_layer(node: Node) -> bool:
    return node.op == "call_function" and _plain_name(node) in WEIGHTED


def _embeds(node: Node) -> bool:
    return node.op == "call_function" and operation_name(node) == "embedding"


def _norm_behind(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and operation_name(users[0]) == "batch_norm" else None

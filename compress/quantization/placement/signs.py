"""Whether what a layer reads can be negative, and whether something was written into it since it was made.

`Signs`, on a trace. Operations that write (`relu_`, `y[:, :4] = z`, `out=y`, ...) are known by their schema, and what
lies in the same memory by the traced tensors' storage, so that no list of views is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.fx import Node

from compress.graph.trace import Trace, operation_name

PASSING = {  # operations whose results are among their operand's values (and zero)
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "amax", "flatten", "reshape", "view", "permute",
    "transpose", "t", "movedim", "contiguous", "clone", "detach", "dropout", "feature_dropout", "alias", "squeeze",
    "unsqueeze", "slice", "select", "narrow", "split", "chunk", "getitem", "split_with_sizes", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "expand",
    "unflatten", "roll", "flip", "repeat", "index_select", "to", "_to_copy", "lift_fresh_copy",
    "view_as", "reshape_as", "expand_as", "ravel",
}  # fmt: skip
POSITIVE = {"relu", "sigmoid", "hardsigmoid", "softmax", "softplus", "exp", "square", "abs", "relu6", "zero"}
KEEPING_SIGN = {  # not bicubic interpolation, which overshoots
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "sum", "cat", "stack", "concat", "add", "mul", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d",
}  # fmt: skip
WRITTEN_VALUE = {"copy": 1, "fill": 1, "masked_fill": 2, "index_fill": 3, "index_put": 2, "index_copy": 3, "scatter": 3}
"""In-place operation -> the place of the operand whose values it puts into parts of its first one."""


def plain_name(node: Node) -> str:
    """The operation's name without the mark of in-place ones."""
    name = operation_name(node)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def zero_pad(node: Node) -> bool:
    """Whether it pads with zeros or with the operand's own values."""
    name = plain_name(node)
    rest: Any = node.args[2:]
    if name == "constant_pad_nd":
        return not rest or rest[0] in (0, None)
    if name != "pad":
        return False
    return len(rest) < 2 or rest[0] != "constant" or rest[1] in (0, None)


class Signs:
    """What the operations of a trace say about the signs of values.

    Args:
        trace: of the network.
    """

    def __init__(self, trace: Trace) -> None:
        self._place = {node: i for i, node in enumerate([*trace.placeholders, *trace.operations])}
        self._writes: defaultdict[int, list[Node]] = defaultdict(list)
        for node in trace.operations:
            for operand in _written(node):
                for storage in _storages(operand):
                    self._writes[storage].append(node)

    def written_since(self, node: Node, reader: Node) -> list[Node]:
        """The operations that change values of a result between its making and its reading, in order."""
        first, last = self._place[node], self._place[reader]
        found = {each for storage in _storages(node) for each in self._writes.get(storage, [])}
        between = sorted((each for each in found if first < self._place[each] < last), key=self._place.__getitem__)
        return [each for each in between if plain_name(each) not in PASSING]

    def non_negative(self, node: Node, reader: Node, assumed: frozenset[int] = frozenset(), depth: int = 24) -> bool:
        """Whether no value can be negative when `reader` reads it, as far as the operations show.

        Args:
            node: a result.
            reader: the operation that reads it.
            assumed: storages without negative values so far: what is written into them must not be negative either.
            depth: operations to walk back.
        """
        storages = _storages(node)
        # Induction: a tensor that is written into itself stays non-negative if each write keeps it so.
        if storages & assumed:
            return True
        if node.op != "call_function" or depth == 0 or not self._made_so(node, reader, assumed, depth - 1):
            return False
        writes = self.written_since(node, reader)
        return all(self._writes_so(each, assumed | storages, depth - 1) for each in writes)

    def _made_so(self, node: Node, reader: Node, assumed: frozenset[int], depth: int) -> bool:
        """Whether an operation's result is without negative values when it is made; a view follows its base."""
        name = plain_name(node)
        if name in POSITIVE or _clamps(node, name):
            return True
        if name == "add" and _subtracts(node):
            return False
        if name in WRITTEN_VALUE:
            return self._so(node.args[0], node, reader, assumed, depth) and self._writes_so(node, assumed, depth)
        if name in KEEPING_SIGN or name in PASSING or zero_pad(node):
            operands = [each for each in _operands(node) if not isinstance(each, str)]
            return bool(operands) and all(self._so(each, node, reader, assumed, depth) for each in operands)
        return False

    def _so(self, operand: Any, node: Node, reader: Node, assumed: frozenset[int], depth: int) -> bool:
        if not isinstance(operand, Node):
            return isinstance(operand, int | float) and operand >= 0
        # A view shows what is written into its base after the view was made, so it is judged at the time it is read.
        until = reader if _storages(operand) & _storages(node) else node
        return self.non_negative(operand, until, assumed, depth)

    def _writes_so(self, node: Node, assumed: frozenset[int], depth: int) -> bool:
        """Whether an operation writes no negative values into memory that has none."""
        name = plain_name(node)
        if name not in WRITTEN_VALUE:  # such as `add_`
            return self._made_so(node, node, assumed, depth)
        value = _argument(node, WRITTEN_VALUE[name], "value", "values", "src", "source")
        return "reduce" not in node.kwargs and self._so(value, node, node, assumed, depth)


def _written(node: Node) -> Iterator[Node]:
    """The operands that an operation writes into."""
    schema = getattr(node.target, "_schema", None)
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = _argument(node, i, argument.name)
            yield from (each for each in (given if isinstance(given, list | tuple) else [given]) if each is not None)


def _argument(node: Node, place: int, *names: str) -> Any:
    if len(node.args) > place:
        return node.args[place]
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)


def _storages(node: Any) -> frozenset[int]:
    """Identity of each piece of memory that a result lies in."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    tensors = value if isinstance(value, tuple | list) else [value]
    return frozenset(each.untyped_storage()._cdata for each in tensors if isinstance(each, Tensor))


def _clamps(node: Node, name: str) -> bool:
    """Whether it cuts off everything below zero."""
    if name not in ("hardtanh", "clamp", "clamp_min"):
        return False
    low = _argument(node, 1, "min", "min_val")
    return isinstance(low, int | float) and low >= 0


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
    if plain_name(node) in ("add", "mul") and len(node.args) > 1:
        yield node.args[1]

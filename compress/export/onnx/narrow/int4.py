"""4-bit weights, two in a byte (INT4 and UINT4 of operator set 21).

A quantized network's weights keep their trained integers where 16 of them reach; the others stay int8, by name. A float
network's are rounded here, in blocks with a scale each, which costs quality: the report says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from compress.errors import UserError
from compress.export.onnx.narrow.graphs import add_initializer, float_weights, insert
from compress.export.onnx.rewriting.weights import Weight
from compress.io.optional import on_use
from compress.quantization.functions import SMALLEST

if TYPE_CHECKING:
    import ml_dtypes
    import onnx_ir as ir
else:
    ir, ml_dtypes = on_use("onnx_ir"), on_use("ml_dtypes")

OPSET = 21
MOST_IN_BLOCK, LEAST_IN_BLOCK = 64, 16  # weights that share a scale
_SHARES = np.linspace(0.5, 1.0, 21)  # of a block's largest value, which the grid reaches
Array = np.ndarray[Any, Any]


def to_int4(model: ir.Model, inputs: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """Weights of 8-bit integers or float32 become 4-bit integers, in place."""
    graph = model.graph
    model.opset_imports[""] = max(OPSET, model.opset_imports.get("", OPSET))
    stored = [node for node in graph if node.op_type == "DequantizeLinear" and Weight.of(node.outputs[0]) is not None]
    if stored:  # a quantized network: nothing is rounded that training did not round
        wide = [_layer(node) for node in stored if not _narrowed(graph, node)]
        if len(wide) == len(stored):
            raise UserError(
                "format='int4' changes nothing here: every layer's weights need more than 16 integers in steps of one "
                "size; train with bits_weights of at most 4"
            )
        names = f"{', '.join(wide[:3])}{' ...' if len(wide) > 3 else ''}"
        if not wide:
            return []
        return [f"{len(wide)} of {len(stored)} layers stay int8, as their weights need more than 16 integers in steps "
                f"of one size: {names}"]  # fmt: skip
    layers = list(float_weights(graph))
    rounded: dict[Any, ir.Value] = {}  # a weight that several layers read is stored once
    for node, weight, axis in layers:
        key = node.inputs[1], axis
        if key not in rounded:
            rounded[key] = _rounded(graph, node, weight, axis)
        node.replace_input_with(1, rounded[key])
    return [f"{len(layers)} float weights were rounded to 4 bits, which training did not know"] if layers else []


def _layer(node: ir.Node) -> str:
    return ", ".join(use.node.name or use.node.op_type for use in node.outputs[0].uses())


def _narrowed(graph: ir.Graph, node: ir.Node) -> bool:
    """Stores the 8-bit weight behind a DequantizeLinear in 4 bits; False where 16 integers do not reach."""
    weight = Weight.of(node.outputs[0])
    found = four_bits(weight) if weight is not None else None
    if found is None:
        return False
    integers, scale, zero = found
    name = str(node.inputs[0].name)  # type: ignore[union-attr]
    values = [(name, integers), (f"{name}_scale", scale), (f"{name}_zero_point", zero)]
    made = [add_initializer(graph, f"{label}_4", array) for label, array in values]
    for index, value in enumerate(made):
        node.replace_input_with(index, value)
    return True


def four_bits(weight: Weight) -> tuple[Array, Array, Array] | None:
    """Integers, scales and zero points of the same values over INT4 or UINT4; None where there are none.

    Small integers may have been stored as multiples by a power of two, channel by channel, over a finer scale: that is
    taken back first.
    """
    channels = weight.axis if weight.scale.ndim else None  # one row a scale
    rows = _rows(weight.integers.astype(np.int64), channels) - weight.zero_point.astype(np.int64).reshape(-1, 1)
    power = np.bitwise_or.reduce(rows, axis=1)
    power = np.where(power == 0, 1, power & -power)  # the largest power of two that divides all of them
    rows = rows // power[:, None]
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    if bool((low >= -8).all()) and bool((high <= 7).all()):
        kind, low = ml_dtypes.int4, np.zeros_like(low)
    elif bool((high - low <= 15).all()):
        kind = ml_dtypes.uint4
    else:
        return None
    integers = _unrows(rows - low[:, None], weight.integers.shape, channels)
    scale = (weight.scale.reshape(-1) * power).astype(np.float32).reshape(weight.scale.shape)
    return integers.astype(kind), scale, (-low).reshape(weight.scale.shape).astype(kind)


def _rows(array: Array, channels: int | None) -> Array:
    """A matrix with a row a channel, or one row."""
    return (
        array.reshape(1, -1) if channels is None else np.moveaxis(array, channels, 0).reshape(array.shape[channels], -1)
    )


def _unrows(rows: Array, shape: tuple[int, ...], channels: int | None) -> Array:
    """The array that `_rows` was made of."""
    if channels is None:
        return rows.reshape(shape)
    front = (shape[channels], *shape[:channels], *shape[channels + 1 :])
    return np.moveaxis(rows.reshape(front), 0, channels)


def _rounded(graph: ir.Graph, node: ir.Node, weight: Array, axis: int) -> ir.Value:
    """A float weight, rounded in front of a node: one row an output channel, in blocks."""
    flat = _rows(weight, axis)
    block = block_of(flat.shape[1])
    integers, scale = round_blocks(flat, block)
    name = str(node.inputs[1].name)  # type: ignore[union-attr]
    floating = ir.DataType.FLOAT
    if block == flat.shape[1]:
        parts = [
            add_initializer(graph, f"{name}_int4", _unrows(integers, weight.shape, axis)),
            add_initializer(graph, f"{name}_scale", scale[:, 0]),
        ]
        values = insert(graph, node, "DequantizeLinear", parts, (floating, weight.shape), {"axis": axis})
    else:
        parts = [add_initializer(graph, f"{name}_int4", integers), add_initializer(graph, f"{name}_scale", scale)]
        attributes = {"axis": 1, "block_size": block}
        values = insert(graph, node, "DequantizeLinear", parts, (floating, flat.shape), attributes)
        front = (weight.shape[axis], *weight.shape[:axis], *weight.shape[axis + 1 :])
        shape = add_initializer(graph, f"{name}_shape", np.array(front, np.int64))
        values = insert(graph, node, "Reshape", [values, shape], (floating, front))
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, weight.ndim)]
            values = insert(graph, node, "Transpose", [values], (floating, weight.shape), {"perm": order})
    return values


def block_of(length: int) -> int:
    """The largest size of a block that divides a row of weights, at most 64; the whole row where none of 16 does.

    Runtimes disagree on rows that blocks do not divide, so none is written.
    """
    if length <= MOST_IN_BLOCK:
        return length
    sizes = range(MOST_IN_BLOCK, LEAST_IN_BLOCK - 1, -1)
    return next((size for size in sizes if length % size == 0), length)


def round_blocks(rows: Array, block: int) -> tuple[Array, Array]:
    """Integers in [-7, 7] of `rows` (channels, weights), and scales (channels, blocks), of least squared error."""
    blocks = rows.reshape(rows.shape[0], -1, block).astype(np.float64)
    largest = np.abs(blocks).max(axis=2)
    best, error = np.zeros_like(largest), np.full_like(largest, np.inf)
    for share in _SHARES:
        scale = np.where(share * largest / 7 >= SMALLEST, share * largest / 7, 1.0)
        found = np.clip(np.round(blocks / scale[..., None]), -7, 7) * scale[..., None]
        own = ((found - blocks) ** 2).sum(axis=2)
        best, error = np.where(own < error, scale, best), np.minimum(own, error)
    best = best.astype(np.float32)
    integers = np.clip(np.round(blocks / best[..., None]), -7, 7)
    return integers.reshape(rows.shape).astype(ml_dtypes.int4), best

"""What all narrow formats do to a graph of onnx_ir: initializers and nodes added, the weights of layers found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.io.optional import on_use

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = on_use("onnx_ir")

Array = np.ndarray[Any, Any]
BETWEEN = ("Add", "DequantizeLinear", "Div", "Mul", "PRelu", "Sub")  # what they read is no weight worth naming
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def float_weights(graph: ir.Graph) -> Iterator[tuple[ir.Node, Array, int]]:
    """Each layer whose weight is a float32 initializer, the weight, and its dimension of output channels."""
    for node in list(graph):
        value = node.inputs[1] if node.op_type in LAYERS and len(node.inputs) > 1 else None
        if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
            continue
        weight = value.const_value.numpy()
        if weight.ndim > 1:  # a product with a vector has no output channels
            yield node, weight, _channel_axis(node, weight.ndim)


def _channel_axis(node: ir.Node, dims: int) -> int:
    if node.op_type == "MatMul":
        return dims - 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A constant of the graph, under a name that is free: one weight may be read along two of its dimensions."""
    count = 2
    while name in graph.initializers:
        name, count = f"{name.removesuffix(f'_{count - 1}')}_{count}", count + 1
    tensor = ir.tensor(array, name=name)
    made = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(made)
    return made


def insert(
    graph: ir.Graph,
    before: ir.Node,
    kind: str,
    inputs: list[ir.Value],
    like: tuple[ir.DataType, Any],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """A node in front of another one; its output, of the type and shape `like`."""
    node = ir.node(kind, inputs, dict(attributes or {}))
    graph.insert_before(before, node)
    value = node.outputs[0]
    value.dtype, value.shape = like[0], like[1] if isinstance(like[1], ir.Shape | None) else ir.Shape(like[1])
    return value


def still_wide(graph: ir.Graph) -> list[str]:
    """A sentence where weights of other operations than layers stay float32, such as embeddings' and LSTMs'."""
    left = [
        each for each in graph.initializers.values() if each.dtype == ir.DataType.FLOAT and len(each.shape or ()) > 1
    ]
    kinds = sorted({use.node.op_type for each in left for use in each.uses()} - set(BETWEEN))
    weights = sum(
        each.const_value.nbytes
        for each in left
        if each.const_value is not None and any(use.node.op_type in kinds for use in each.uses())
    )
    return [f"{weights:,} bytes of weights stay float32: those that {', '.join(kinds)} read"] if kinds else []


def channel_shape(array: Array, axis: int) -> tuple[int, ...]:
    """A shape in which one number a channel broadcasts over a weight."""
    return tuple(-1 if dim == axis else 1 for dim in range(array.ndim))

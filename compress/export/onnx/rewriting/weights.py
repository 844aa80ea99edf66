"""The weight of a layer in a quantized ONNX graph, its bias, and where its channels lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.export.onnx.rewriting.moves import constant_of
from compress.io.optional import on_use

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = on_use("onnx_ir")

CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Weight:
    """A dequantized initializer: value = scale * (integers - zero_point).

    Attributes:
        integers: int8.
        scale: float32, shape () or (channels,).
        zero_point: int8, of scale's shape.
        axis: the dimension that scale runs along.
    """

    integers: Array
    scale: Array
    zero_point: Array
    axis: int

    @classmethod
    def of(cls, value: ir.Value | None) -> Weight | None:
        """The weight behind a value; None if it is something else."""
        node = value.producer() if value is not None else None
        if node is None or node.op_type != "DequantizeLinear":
            return None
        arrays = [constant_of(each) for each in node.inputs]
        if len(arrays) != 3 or any(each is None for each in arrays):
            return None
        # ONNX's default; `max` for a scalar, which has no dimensions.
        axis = node.attributes.get_int("axis", 1)
        integers, scale, zero_point = (np.asarray(each) for each in arrays)
        return cls(integers, scale, zero_point, axis % max(integers.ndim, 1))

    def scales(self, channels: int) -> Array:
        """One scale a channel."""
        return np.broadcast_to(self.scale, (channels,))

    def values(self) -> Array:
        """What it stands for, float64."""
        along = [-1 if dim == self.axis else 1 for dim in range(self.integers.ndim)]
        scale, zero = (each.reshape(along) if each.ndim else each for each in (self.scale, self.zero_point))
        found: Array = (self.integers.astype(np.float64) - zero) * scale
        return found

    def insert_before(self, graph: ir.Graph, node: ir.Node, name: str) -> ir.Value:
        """Adds initializers and a DequantizeLinear in front of a node; its output."""
        inputs = [
            initializer(graph, f"{name}_{kind}", array)
            for kind, array in (("int8", self.integers), ("scale", self.scale), ("zero_point", self.zero_point))
        ]
        made = ir.node("DequantizeLinear", inputs, {"axis": self.axis} if self.scale.ndim else {}, name=f"{name}_dq")
        value = made.outputs[0]
        value.name, value.shape, value.dtype = f"{name}_values", ir.Shape(self.integers.shape), ir.DataType.FLOAT
        graph.insert_before(node, made)
        return value


def channel_axis(layer: ir.Node) -> int:
    """The weight's dimension of output channels."""
    turned = layer.op_type == "Gemm" and bool(layer.attributes.get_int("transB", None))
    return 0 if turned else CHANNEL_AXIS[layer.op_type]


def constant_bias(layer: ir.Node) -> Array | None:
    """A layer's constant bias, zeros if it has none, None if it is computed."""
    if len(layer.inputs) < 3 or layer.inputs[2] is None:
        return np.zeros(1, np.float32)
    return constant_of(layer.inputs[2])


def initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A constant that is added to the graph."""
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value

"""FP8 (E4M3, arXiv 2209.05433): weights and what layers read in 8-bit floats, by QuantizeLinear / DequantizeLinear.

Scales map the largest value to the format's largest, 448: one a channel of a weight, one for what a layer reads, over
the inputs given. Layers compute in float32 where a runtime has no FP8 kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from compress.export.onnx.full_integer import ranges_of
from compress.export.onnx.narrow.graphs import add_initializer, channel_shape, float_weights, insert
from compress.io.optional import on_use
from compress.quantization.functions import SMALLEST

if TYPE_CHECKING:
    import ml_dtypes
    import onnx_ir as ir
else:
    ir, ml_dtypes = on_use("onnx_ir"), on_use("ml_dtypes")

LARGEST = 448.0
OPSET = 19  # the first with 8-bit floats
# onnxruntime 1.32 fuses QuantizeLinear / DequantizeLinear of FP8 around other layers as if they were integers, and what
# they give is wrong (a MatMul's by 80 % of the largest value, without fusions by 2 %). There only weights are narrow.
READING = ("Conv", "Gemm")


def to_float8(model: ir.Model, inputs: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """Layers of float32 weights read and hold 8-bit floats, in place."""
    graph = model.graph
    model.opset_imports[""] = max(OPSET, model.opset_imports.get("", OPSET))
    layers = list(float_weights(graph))
    read = {value: None for node, _, _ in layers if (value := _read_by(node)) is not None}
    with tempfile.TemporaryDirectory() as folder:
        ranges = ranges_of(model, list(read), inputs, Path(folder))
    for value in read:
        _keep_relu(graph, value)
    narrow: dict[Any, ir.Value] = {}
    stored: dict[Any, ir.Value] = {}  # a weight that several layers read is stored once
    for node, weight, axis in layers:
        value = _read_by(node)
        if value is not None:
            if value not in narrow:
                largest = max(map(abs, ranges[str(value.name)]))
                narrow[value] = _rounded(graph, node, value, largest)
            node.replace_input_with(0, narrow[value])
        key = node.inputs[1], axis
        if key not in stored:
            stored[key] = _stored(graph, node, weight, axis)
        node.replace_input_with(1, stored[key])
    return [f"{len(layers)} layers were rounded to FP8, which training did not know"] if layers else []


def _keep_relu(graph: ir.Graph, value: ir.Value) -> None:
    """A ReLU in front of a rounding is written as a maximum with 0.

    onnxruntime 1.32 takes the zero point 0 of FP8 for the least value of uint8 and removes the ReLU (ReluQuantFusion).
    """
    node = value.producer()
    if node is not None and node.op_type == "Relu":
        zero = add_initializer(graph, f"{value.name}_zero", np.array(0, np.float32))
        made = insert(graph, node, "Max", [node.inputs[0], zero], (ir.DataType.FLOAT, value.shape))  # type: ignore[list-item]
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, made)
        made.name, value.name = value.name, f"{value.name}_relu"
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = made


def _read_by(node: ir.Node) -> ir.Value | None:
    """What a layer reads, if that is to be narrow too."""
    return node.inputs[0] if node.op_type in READING else None


def _rounded(graph: ir.Graph, before: ir.Node, value: ir.Value, largest: float) -> ir.Value:
    """A tensor on FP8's grid; in front of its first reader, so that all others find it."""
    name = value.name
    scale = add_initializer(graph, f"{name}_fp8_scale", np.array(max(largest, 1e-8) / LARGEST, np.float32))
    zero = add_initializer(graph, f"{name}_fp8_zero_point", np.array(0, ml_dtypes.float8_e4m3fn))
    like = (ir.DataType.FLOAT8E4M3FN, value.shape)
    integers = insert(graph, before, "QuantizeLinear", [value, scale, zero], like, {"saturate": 1})
    return insert(graph, before, "DequantizeLinear", [integers, scale, zero], (ir.DataType.FLOAT, value.shape))


def _stored(graph: ir.Graph, node: ir.Node, weight: np.ndarray[Any, Any], axis: int) -> ir.Value:
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest / LARGEST >= SMALLEST, largest / LARGEST, 1.0).astype(np.float32)
    values = (weight / scale.reshape(channel_shape(weight, axis))).clip(-LARGEST, LARGEST)
    name = str(node.inputs[1].name)  # type: ignore[union-attr]
    parts = [
        add_initializer(graph, f"{name}_fp8", values.astype(ml_dtypes.float8_e4m3fn)),
        add_initializer(graph, f"{name}_fp8_scale", scale),
    ]
    return insert(graph, node, "DequantizeLinear", parts, (ir.DataType.FLOAT, weight.shape), {"axis": axis})

"""Layers whose rounded input or output is only moved about get it rounded directly, so that they run in integers.

`keep_integers`, on graphs of onnx_ir; `constant_of`. Rounding acts on each value alone, so that it may change places
with what only moves values:

    Conv -> DepthToSpace -> QuantizeLinear     becomes  Conv -> QuantizeLinear -> DepthToSpace
    DequantizeLinear -> Pad -> Conv            becomes  Pad -> DequantizeLinear -> Conv
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compress.io.optional import on_use

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = on_use("onnx_ir")

Array = np.ndarray[Any, Any]
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MOVES = {"DepthToSpace", "SpaceToDepth", "Slice", "Pad"}  # onnxruntime takes Reshape and Transpose by itself


def keep_integers(graph: ir.Graph) -> None:
    """Both rewritings, in place; no value changes."""
    for node in [each for each in graph if each.op_type == "QuantizeLinear"]:
        _hoist(graph, node)
    for node in [each for each in graph if each.op_type in _MOVES]:
        _sink(graph, node)


def _hoist(graph: ir.Graph, rounding: ir.Node) -> None:
    """Puts a QuantizeLinear in front of the moves between a layer and itself."""
    moves: list[ir.Node] = []
    value = rounding.inputs[0]
    while value is not None and (node := value.producer()) is not None and node.op_type in _MOVES - {"Pad"}:
        if len(value.uses()) != 1 or value.is_graph_output():
            return
        moves.append(node)
        value = node.inputs[0]
    scale = rounding.inputs[1]
    if not moves or value is None or value.producer() is None or scale is None or not _is_scalar(scale):
        return
    last, own = moves[0].outputs[0], rounding.outputs[0]
    for use in list(own.uses()):
        use.node.replace_input_with(use.idx, last)
    moves[-1].replace_input_with(0, own)
    rounding.replace_input_with(0, value)
    own.shape = value.shape
    for move in moves:
        move.outputs[0].type = own.type
    graph.remove(rounding)
    graph.insert_before(moves[-1], rounding)


def _sink(graph: ir.Graph, move: ir.Node) -> None:
    """Puts the DequantizeLinear in front of a move behind it, where that leads to a layer."""
    value, made = move.inputs[0], move.outputs[0]
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or made.is_graph_output() or not _leads_to_layer(made):
        return
    integers, scale = node.inputs[:2]
    if integers is None or integers.producer() is None or scale is None or not _is_scalar(scale):
        return
    if move.op_type == "Pad" and not _pad_integers(move, node):
        return
    move.replace_input_with(0, integers)
    values = ir.node("DequantizeLinear", [made, *node.inputs[1:]], name=f"{move.name}_dq")
    out = values.outputs[0]
    out.name, out.shape, out.dtype = f"{move.name}_dq_out", made.shape, ir.DataType.FLOAT
    made.type = integers.type
    for use in list(made.uses()):
        if use.node is not values:
            use.node.replace_input_with(use.idx, out)
    graph.insert_after(move, values)


def _pad_integers(pad: ir.Node, rounded: ir.Node) -> bool:
    """Lets a Pad pad integers: what is padded by 0.0 by the zero point; False where it pads another constant."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return True
    given = pad.inputs[2] if len(pad.inputs) > 2 else None
    array = constant_of(given)
    zero = rounded.inputs[2] if len(rounded.inputs) > 2 else None
    if zero is None or (given is not None and (array is None or np.any(array))):
        return False
    if given is None and len(pad.inputs) < 3:
        pad.resize_inputs(3)
    pad.replace_input_with(2, zero)
    return True


def _leads_to_layer(value: ir.Value) -> bool:
    nodes = [use.node for use in value.uses()]
    return any(
        each.op_type in _LAYERS or (each.op_type in _MOVES and _leads_to_layer(each.outputs[0])) for each in nodes
    )


def _is_scalar(value: ir.Value) -> bool:
    array = constant_of(value)
    return array is not None and array.ndim == 0


def constant_of(value: ir.Value | None) -> Array | None:
    """An initializer's or Constant's array; None for what is computed or absent."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()

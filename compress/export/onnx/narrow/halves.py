"""float16 and bfloat16: half the bytes.

`to_float16` makes the whole graph compute in float16, between inputs and outputs that stay float32. `to_bfloat16`
stores the weights in bfloat16 and casts them back: ONNX has bfloat16 convolutions from operator set 22 on only, and no
CPU runtime takes them; those with bfloat16 hardware choose that arithmetic themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from compress.errors import UserError
from compress.export.onnx.narrow.graphs import add_initializer, insert
from compress.io.optional import on_use

if TYPE_CHECKING:
    import ml_dtypes
    import onnx_ir as ir
else:
    ir, ml_dtypes = on_use("onnx_ir"), on_use("ml_dtypes")

LARGEST_FLOAT16 = 65504.0


def to_float16(model: ir.Model, inputs: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """Every float32 tensor of a graph becomes float16, in place.

    Raises:
        UserError: a weight is beyond float16's range, or the graph holds branches or loops.
    """
    graph, half = model.graph, ir.DataType.FLOAT16
    _refuse_subgraphs(graph)
    fixed = _sizes_in_float(graph)
    small: list[str] = []
    for value in list(graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT and value not in fixed:
            array = value.const_value.numpy()  # type: ignore[union-attr]
            _check_range(str(value.name), array)
            given = array.astype(np.float16)
            if bool(((given == 0) & (array != 0)).any()):
                small.append(str(value.name))
            value.const_value, value.dtype = ir.tensor(given, name=value.name), half
    _cast_inputs(graph)
    for node in list(graph):
        if node.op_type == "Range":
            _between_casts(graph, node)
        else:
            _narrow_node(node)
    _cast_outputs(graph)
    if not small:
        return []
    names = f"{', '.join(small[:3])}{' ...' if len(small) > 3 else ''}"
    return [f"float16 holds nothing below 6e-8: values of {names} became 0"]


def to_bfloat16(model: ir.Model, inputs: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """Every float32 initializer of more than one number is stored in bfloat16, in place, and cast to float32."""
    graph = model.graph
    _refuse_subgraphs(graph)
    first = next(iter(graph))
    for value in list(graph.initializers.values()):
        array = value.const_value.numpy() if value.const_value is not None else None
        if value.dtype != ir.DataType.FLOAT or array is None or array.size < 2 or value in _sizes_in_float(graph):
            continue
        narrow = add_initializer(graph, f"{value.name}_bfloat16", array.astype(ml_dtypes.bfloat16))
        given = insert(graph, first, "Cast", [narrow], (value.dtype, value.shape), {"to": int(ir.DataType.FLOAT)})
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, given)
    return ["weights are stored in bfloat16; a runtime computes in float32 unless it is told otherwise"]


def _refuse_subgraphs(graph: ir.Graph) -> None:
    for node in graph:
        if any(each.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for each in node.attributes.values()):
            raise UserError(f"{node.op_type} ({node.name}) holds a graph of its own, which has no narrow form here")


def _sizes_in_float(graph: ir.Graph) -> set[ir.Value]:
    """Scales of Resize and ends of Range: the operators take them in float32, but not in float16."""
    scales = {node.inputs[2] for node in graph if node.op_type == "Resize" and len(node.inputs) > 2 and node.inputs[2]}
    return scales | {each for node in graph if node.op_type == "Range" for each in node.inputs if each is not None}


def _check_range(name: str, array: np.ndarray[Any, Any]) -> None:
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))  # float16 has infinities, as masks hold
    if largest > LARGEST_FLOAT16:
        masks = largest >= float(np.finfo(np.float32).max)
        advice = 'masks of torch.finfo(torch.float32).min may be float("-inf") or -1e4 instead, or ' if masks else ""
        raise UserError(
            f"{name} holds {largest:.3g}, and float16 ends at {LARGEST_FLOAT16:g}; {advice}bfloat16 has float32's range"
        )


def _cast_inputs(graph: ir.Graph) -> None:
    first = next(iter(graph))
    for value in graph.inputs:
        if value.dtype != ir.DataType.FLOAT:
            continue
        readers = list(value.uses())
        made = insert(graph, first, "Cast", [value], (ir.DataType.FLOAT16, value.shape), {"to": 10})
        for use in readers:
            use.node.replace_input_with(use.idx, made)


def _narrow_node(node: ir.Node) -> None:
    """What a node gives, and what it holds, in float16."""
    for value in node.outputs:
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.FLOAT16
    for name, each in list(node.attributes.items()):
        if name in ("to", "dtype") and each.value == int(ir.DataType.FLOAT):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT16))
        if each.type == ir.AttributeType.TENSOR and each.value.dtype == ir.DataType.FLOAT:
            _check_range(f"a constant of {node.name}", each.value.numpy())
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(each.value.numpy().astype(np.float16)))


def _between_casts(graph: ir.Graph, node: ir.Node) -> None:
    """A node computes in float32; what it reads from others and what it gives is cast."""
    for i, value in enumerate(node.inputs):
        if value is not None and value.dtype == ir.DataType.FLOAT16:
            made = insert(
                graph, node, "Cast", [value], (ir.DataType.FLOAT, value.shape), {"to": int(ir.DataType.FLOAT)}
            )
            node.replace_input_with(i, made)
    value, readers = node.outputs[0], list(node.outputs[0].uses())
    if value.dtype == ir.DataType.FLOAT and readers:
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)})
        graph.insert_after(node, cast)
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT16, value.shape
        for use in readers:
            use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast_outputs(graph: ir.Graph) -> None:
    for i, value in enumerate(list(graph.outputs)):
        if value.dtype != ir.DataType.FLOAT16:
            continue
        node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
        graph.append(node)
        made, name = node.outputs[0], value.name
        value.name = f"{name}_float16"
        made.name, made.dtype, made.shape = name, ir.DataType.FLOAT, value.shape
        graph.outputs[i] = made

"""Integers all the way: the outputs that training left unrounded are rounded too, so that every layer gets its kernel.

`complete`.

onnxruntime runs a layer in integers only where its output is rounded as well. Quantizers that round what layers read
leave open the outputs in front of additions, poolings and the like. This pass rounds those, to 8 bits over the range
that they have on calibration inputs. That is not what was trained, so it is asked for, and its difference is
reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from compress.export.onnx.session import open_session, run_session
from compress.io.optional import on_use

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = on_use("onnx_ir")

COARSER = 2.5  # times the step of 8 bits, from which on a rounding that is there is not taken for other readers
_LAYERS = {"Conv", "Gemm", "MatMul"}
_SUMS = {"Add", "Mul", "Concat"}  # have integer kernels of their own
_MERGED = {"Relu", "Clip"}  # onnxruntime merges them into the rounding behind
_PASSING = {"MaxPool", "DepthToSpace", "Reshape", "Transpose", "Slice", "Pad", "Flatten", "Squeeze", "Unsqueeze"}


def complete(model: ir.Model, inputs: Sequence[tuple[Tensor, ...]], folder: Path) -> list[str]:
    """Rounds, in place, what quantized layers and sums of rounded values give, unless it is the network's output.

    Args:
        model: an integer graph.
        inputs: for calibration, at least one.
        folder: for a temporary file.

    Returns:
        names of the values whose readers all read them rounded now.
    """
    chosen = _open_values(model.graph)
    ranges = ranges_of(model, chosen, inputs, folder)
    for value in chosen:
        low, high = ranges[str(value.name)]
        _share(value, _fitting(value, low, high) or _insert(model.graph, value, low, high))
    return list(ranges)


def _open_values(graph: ir.Graph) -> list[ir.Value]:
    """Values that someone reads unrounded, in the graph's order; sums count once their operands are rounded."""
    found: dict[ir.Value, None] = {}
    for node in graph:
        # The third input is a bias, which runtimes round themselves.
        operands = [each for each in node.inputs[: 2 if node.op_type != "Concat" else None] if each is not None]
        eligible = node.op_type in _LAYERS | _SUMS and all(_is_rounded(each, found) for each in operands)
        if not eligible:
            continue
        value = _behind(node.outputs[0])
        readers = [use.node for use in value.uses()]
        if not value.is_graph_output() and any(each.op_type != "QuantizeLinear" for each in readers):
            found[value] = None
    return list(found)


def _behind(value: ir.Value) -> ir.Value:
    """The output of the Relu or Clip that alone reads a value, else the value."""
    uses = list(value.uses())
    if len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type in _MERGED:
        return uses[0].node.outputs[0]
    return value


def _is_rounded(value: ir.Value, planned: dict[ir.Value, None]) -> bool:
    """Whether a value is dequantized, will be, or is moved about from such a one."""
    while True:
        node = value.producer()
        if value in planned or (node is not None and node.op_type == "DequantizeLinear"):
            return True
        if node is None or node.op_type not in _PASSING or node.inputs[0] is None:
            return False
        value = node.inputs[0]


def _fitting(value: ir.Value, low: float, high: float) -> ir.Value | None:
    """The rounded form of a value, if it has one of about 8 bits over its range; that for a reader of 2 bits has not.

    Half of the steps are no loss that counts: a symmetric grid may use one side only. Nor is a cut of a quarter of the
    range, as training may have chosen it.
    """
    step, cut = max(high - low, 1e-8) / 255, 0.25 * (high - low)
    found: list[tuple[float, ir.Value]] = []
    for rounded in _rounded(value):
        node: Any = rounded.producer()
        scale, zero = (None if each is None else each.const_value for each in (*node.inputs, None)[1:3])
        if scale is None or scale.size != 1:
            continue
        own, integers = float(scale.numpy()), np.iinfo(np.uint8 if zero is None else zero.numpy().dtype)
        origin = 0 if zero is None else int(zero.numpy())
        least, largest = (own * (end - origin) for end in (integers.min, integers.max))
        if own <= COARSER * step and least <= low + cut and largest >= high - cut:
            found.append((own, rounded))
    return min(found, key=lambda each: each[0])[1] if found else None


def _rounded(value: ir.Value) -> list[ir.Value]:
    """The DequantizeLinear outputs of a value's QuantizeLinears."""
    found = []
    for use in value.uses():
        current = use.node.outputs[0] if use.node.op_type == "QuantizeLinear" else None
        while current is not None:
            readers = [each.node for each in current.uses()]
            current = readers[0].outputs[0] if len(readers) == 1 else None
            if current is not None and readers[0].op_type == "DequantizeLinear":
                found.append(current)
                break
    return found


def _share(value: ir.Value, rounded: ir.Value) -> None:
    """Everyone else who reads a value reads its rounded form."""
    for use in list(value.uses()):
        if use.node.op_type != "QuantizeLinear":
            use.node.replace_input_with(use.idx, rounded)


def _insert(graph: ir.Graph, value: ir.Value, low: float, high: float) -> ir.Value:
    """QuantizeLinear and DequantizeLinear behind a value; the latter's output, which nobody reads yet."""
    scale = max(high - low, 1e-8) / 255
    zero = int(np.clip(round(-low / scale), 0, 255))
    constants = []
    for kind, array in (("scale", np.array(scale, np.float32)), ("zero_point", np.array(zero, np.uint8))):
        tensor = ir.tensor(array, name=f"{value.name}_{kind}")
        made = ir.Value(name=tensor.name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(made)
        constants.append(made)
    integers = ir.node("QuantizeLinear", [value, *constants], name=f"{value.name}_q")
    values = ir.node("DequantizeLinear", [integers.outputs[0], *constants], name=f"{value.name}_dq")
    for node, dtype in ((integers, ir.DataType.UINT8), (values, ir.DataType.FLOAT)):
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = f"{node.name}_out", value.shape, dtype
    producer: Any = value.producer()
    graph.insert_after(producer, [integers, values])
    return values.outputs[0]


def ranges_of(
    model: ir.Model, values: Sequence[ir.Value], inputs: Sequence[tuple[Tensor, ...]], folder: Path
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value that tensors of a graph have over the inputs, 0 included, by name."""
    if not values:
        return {}
    graph, count = model.graph, len(model.graph.outputs)
    # For the calibration run only: a value can be read from a session only if it is an output.
    graph.outputs.extend(each for each in values if not (each.is_graph_input() or each.is_graph_output()))
    file, names = folder / "calibration.onnx", [str(each.name) for each in (*graph.inputs, *graph.outputs)]
    try:
        ir.save(model, file)
    finally:
        del graph.outputs[count:]
    session = open_session(file, fused=False)
    ranges = {str(value.name): (0.0, 0.0) for value in values}
    for each in inputs:
        for name, tensor in zip(names, (*each, *run_session(session, each)), strict=True):
            if name in ranges:
                low, high = ranges[name]
                ranges[name] = (min(low, float(tensor.min())), max(high, float(tensor.max())))
    return ranges

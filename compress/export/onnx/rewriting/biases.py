"""Biases that 32 bits hold: `fit_biases`, the last rewriting of a quantized ONNX graph; see `int8_weights.fitted`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress.export.onnx.int8_weights import fitted
from compress.export.onnx.rewriting.moves import constant_of
from compress.export.onnx.rewriting.weights import CHANNEL_AXIS, Array, Weight, channel_axis, constant_bias

if TYPE_CHECKING:
    import onnx_ir as ir

NEXT_TO_NOTHING = 1e-3  # of the largest weight: an eighth of a step of 8 bits


def fit_biases(graph: ir.Graph) -> list[str]:
    """Weights whose scale is too fine for the layer's bias get a coarser one, a channel at a time, in place.

    Returns:
        A sentence for each layer whose weights are not the trained ones any more, to a thousandth of the largest.
    """
    notes = []
    for node in list(graph):
        weight = Weight.of(node.inputs[1]) if node.op_type in CHANNEL_AXIS and len(node.inputs) == 3 else None
        bias, step = (constant_bias(node), _input_scale(node)) if weight is not None else (None, None)
        if weight is None or bias is None or step is None:
            continue
        coarser = _coarser(weight, bias, step, channel_axis(node))
        if coarser is not None:
            node.replace_input_with(1, coarser.insert_before(graph, node, f"{node.outputs[0].name}_fitting"))
            error = float(np.abs(coarser.values() - weight.values()).max() / max(np.abs(weight.values()).max(), 1e-30))
            if error > NEXT_TO_NOTHING:
                notes.append(
                    f"{node.name}: its bias over input scale x weight scale does not fit 32 bits, so its weights have "
                    f"a coarser scale; off by at most {100 * error:.2g} % of the largest weight"
                )
    return notes


def _coarser(weight: Weight, bias: Array, step: float, axis: int) -> Weight | None:
    """A weight that leaves room for the bias; None where it does, or its scales run along something else."""
    channels = weight.integers.shape[axis]
    if bias.shape not in {(1,), (channels,)} or (weight.scale.ndim and weight.axis != axis):
        return None
    zeros = np.ascontiguousarray(np.broadcast_to(weight.zero_point, (channels,)))
    integers, scale, zero = (torch.tensor(each) for each in (weight.integers, weight.scales(channels), zeros))
    found = fitted(integers, scale, zero, axis, torch.tensor(bias), step)
    if found is None:
        return None
    return replace(weight, integers=found[0].numpy(), scale=found[1].numpy(), zero_point=zeros, axis=axis)


def _input_scale(node: ir.Node) -> float | None:
    """The one scale of a layer's input; None where it is not rounded."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    scale = constant_of(source.inputs[1]) if source is not None and source.op_type == "DequantizeLinear" else None
    return float(np.asarray(scale).item()) if scale is not None and np.asarray(scale).size == 1 else None

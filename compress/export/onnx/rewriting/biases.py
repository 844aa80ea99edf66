"""Biases that 32 bits hold: `fit_biases`, the last rewriting of a quantized ONNX graph.

Integer kernels keep a bias as a multiple of input scale x weight scale. Beside weights that are next to nothing (a
channel whose BatchNorm has a gamma of 1e-6, say) it exceeds 32 bits, and kernels cut it off without a word.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compress.export.onnx.rewriting.moves import constant_of
from compress.export.onnx.rewriting.weights import CHANNEL_AXIS, Array, Weight, channel_axis, constant_bias

if TYPE_CHECKING:
    import onnx_ir as ir

logger = logging.getLogger("compress")
MOST = 2**30  # half of what 32 bits hold: the sum of the products is added


def fit_biases(graph: ir.Graph) -> None:
    """Weights whose scale is too fine for the layer's bias get a coarser one, a channel at a time, in place.

    What a channel's weights lose is at most half a scale each: with inputs of 8 bits and n weights less than
    n * 2**-23 of its bias, while the rounding of an output to 8 bits takes 2**-9 of the largest value.
    """
    for node in list(graph):
        weight = Weight.of(node.inputs[1]) if node.op_type in CHANNEL_AXIS and len(node.inputs) == 3 else None
        bias, step = (constant_bias(node), _input_scale(node)) if weight is not None else (None, None)
        if weight is None or bias is None or step is None:
            continue
        coarser = _coarser(weight, np.abs(bias.astype(np.float64)) / (step * MOST), channel_axis(node))
        if coarser is not None:
            node.replace_input_with(1, coarser.insert_before(graph, node, f"{node.outputs[0].name}_fitting"))
            logger.info("%s: scales of weights next to nothing are coarser, so that 32 bits hold the biases", node.name)


def _coarser(weight: Weight, least: Array, axis: int) -> Weight | None:
    """A weight whose scales are at least so large; None where they are, or run along something else."""
    channels = weight.integers.shape[axis]
    if least.shape not in {(1,), (channels,)} or (weight.scale.ndim and weight.axis != axis):
        return None
    scale = weight.scales(channels).astype(np.float64)
    if bool((np.abs(scale) >= least).all()):
        return None
    new = (np.sign(scale) * np.maximum(np.abs(scale), least)).astype(np.float32)
    along = [-1 if dim == axis else 1 for dim in range(weight.integers.ndim)]
    zeros = np.ascontiguousarray(np.broadcast_to(weight.zero_point, (channels,)))
    zero = zeros.reshape(along).astype(np.float64)
    values = (weight.integers - zero) * scale.reshape(along)
    integers = np.round(values / new.reshape(along).astype(np.float64)) + zero
    return replace(weight, integers=integers.astype(np.int8), scale=new, zero_point=zeros, axis=axis)


def _input_scale(node: ir.Node) -> float | None:
    """The one scale of a layer's input; None where it is not rounded."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    scale = constant_of(source.inputs[1]) if source is not None and source.op_type == "DequantizeLinear" else None
    return float(np.asarray(scale).item()) if scale is not None and np.asarray(scale).size == 1 else None

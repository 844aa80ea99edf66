"""Rewriting of quantized ONNX graphs into the forms that integer kernels are made for; each rewriting is exact.

`fold_onnx_batch_norm`, `unfold_transposed`, `transpose_weights` on graphs of onnx_ir, and `improve`, which does all.

A weight here is DequantizeLinear(int8 initializer, scale, zero point). All three rewritings move the integers about
and multiply scales; no integer is rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.export.onnx.rewriting.biases import fit_biases
from compress.export.onnx.rewriting.moves import constant_of, keep_integers
from compress.export.onnx.rewriting.weights import CHANNEL_AXIS, Array, Weight, channel_axis, constant_bias, initializer
from compress.io.optional import on_use

if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = on_use("onnx_ir")

MOST_COPIES = 2  # of one weight in a file
_NOTHING = 1e-8  # of the largest scale: a channel that BatchNorm multiplies with that is 0


def improve(model: ir.Model) -> list[str]:
    """All rewritings, in place; what they leave unused is removed. What is not as it was trained, in sentences."""
    # In this order: the others look for a DequantizeLinear directly at the layer, and a BatchNorm directly behind it
    # (not behind the DepthToSpace that a transposed convolution becomes); equal transpositions share a weight, and the
    # last one gives each reader its own.
    transpose_weights(model.graph)
    fold_onnx_batch_norm(model.graph)
    unfold_transposed(model.graph)
    separate_weights(model.graph)
    keep_integers(model.graph)
    notes = fit_biases(model.graph)
    remove_unused(model)
    return notes


def remove_unused(model: ir.Model) -> None:
    """Drops nodes and initializers that nothing reads."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def separate_weights(graph: ir.Graph) -> None:
    """Gives every reader of a weight a DequantizeLinear and initializers of its own.

    The exporter lets layers share equal scales and zero points, and a layer that is called twice has one weight.
    onnxruntime's conversion to non-saturating kernels fails on shared ones ("attempt to replace the existing tensor").
    A weight that many steps read, as in an unrolled recurrent layer, is stored once: uint8 needs no conversion.
    """
    for node in list(graph):
        weight = Weight.of(node.outputs[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None:
            continue
        readers = {use.node.op_type for use in node.outputs[0].uses()}
        if len(node.outputs[0].uses()) > MOST_COPIES and readers <= {"Gemm", "MatMul"}:
            _take_over(node.outputs[0], _unsigned(weight).insert_before(graph, node, f"{node.name}_shared"))
            continue
        for i, use in enumerate(list(node.outputs[0].uses())):
            own = weight.insert_before(graph, node, f"{node.name}_own{i or ''}")
            use.node.replace_input_with(use.idx, own)


def _unsigned(weight: Weight) -> Weight:
    """The same values over uint8."""
    integers, zeros = ((each.astype(np.int16) + 128).astype(np.uint8) for each in (weight.integers, weight.zero_point))
    return Weight(integers, weight.scale, zeros, weight.axis)


def transpose_weights(graph: ir.Graph) -> None:
    """Transpose(weight) -> a weight that is stored that way round; equal transpositions of one share it."""
    made: dict[tuple[str | None, ...], ir.Value] = {}
    for node in list(graph):
        weight = Weight.of(node.inputs[0]) if node.op_type == "Transpose" else None
        if weight is None:
            continue
        order = list(node.attributes.get_ints("perm", tuple(reversed(range(weight.integers.ndim)))))
        source: Any = node.inputs[0]
        key = (*(each.name for each in source.producer().inputs), str(order))
        if key not in made:
            integers = np.ascontiguousarray(weight.integers.transpose(order))
            turned = Weight(integers, weight.scale, weight.zero_point, order.index(weight.axis))
            made[key] = turned.insert_before(graph, node, f"{node.name}_turned")
        _take_over(node.outputs[0], made[key])


def fold_onnx_batch_norm(graph: ir.Graph) -> None:
    """BatchNormalization(Conv(x, weight, bias)) -> Conv(x, weight', bias'); also ConvTranspose and Gemm.

    Channel c's scale is multiplied by gamma / sqrt(variance + eps); where it comes out negative the integers change
    sign. Where they cannot (-128, or a zero point) it stays negative, which ONNX and onnxruntime allow.
    """
    # A list: the graph changes while it is walked.
    for norm in [node for node in graph if node.op_type == "BatchNormalization"]:
        layer = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if layer is None or layer.op_type not in CHANNEL_AXIS or not _read_once(layer.outputs[0]):
            continue
        weight, bias = Weight.of(layer.inputs[1]), constant_bias(layer)
        constants = [constant_of(each) for each in norm.inputs[1:5]]
        if weight is None or bias is None or any(each is None for each in constants):
            continue
        gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in constants)
        factor = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        folded = _scaled(weight, factor, channel_axis(layer), _groups(layer))
        if folded is None:
            continue
        shifted = (beta - mean * factor + np.broadcast_to(bias, gamma.shape) * factor).astype(np.float32)
        name = f"{layer.name}_folded"
        inputs = [layer.inputs[0], folded.insert_before(graph, layer, name), initializer(graph, f"{name}_b", shifted)]
        _swap(graph, layer, norm, inputs, name)


def unfold_transposed(graph: ir.Graph) -> None:
    """ConvTranspose(x, weight, bias) of stride s -> DepthToSpace(Conv(x, weight', bias')), which has integer kernels.

    Output pixel s q + r is a sum over the inputs q - d with weight tap k = r + p + s d, p being the padding: for each
    of the phases r an ordinary convolution. Taps that a phase lacks are 0. Example: kernel 4, stride 2, padding 1:
    phase 0 has taps 1 (d = 0) and 3 (d = 1), phase 1 has taps 0 (d = -1) and 2 (d = 0), so the convolution has 3 taps.
    """
    for node in [each for each in graph if each.op_type == "ConvTranspose"]:
        weight, bias, plan = Weight.of(node.inputs[1]), constant_bias(node), _Unfolding.of(node)
        if weight is None or bias is None or plan is None:
            continue
        name, count = f"{node.outputs[0].name}_unfolded", plan.stride**2
        unfolded = plan.weight(weight)
        inputs = [node.inputs[0], unfolded.insert_before(graph, node, name)]
        channels = unfolded.integers.shape[0]
        inputs.append(initializer(graph, f"{name}_b", np.repeat(np.broadcast_to(bias, (channels // count,)), count)))
        conv = ir.node("Conv", inputs, {"pads": plan.pads, "group": plan.groups}, name=node.name)
        made = [conv]
        if plan.stride > 1:
            shuffle: dict[str, Any] = {"blocksize": plan.stride, "mode": "CRD"}
            made.append(ir.node("DepthToSpace", [conv.outputs[0]], shuffle, name=f"{name}_shuffle"))
        if any(plan.surplus):
            made.append(_crop(graph, made[-1].outputs[0], plan.surplus, name))
        for each in made:
            each.outputs[0].name = f"{each.name}_out"
            graph.insert_before(node, each)
        _take_over(node.outputs[0], made[-1].outputs[0])


@dataclass(frozen=True)
class _Unfolding:
    """Geometry of one transposed convolution as an ordinary one; pairs are (height, width)."""

    stride: int
    groups: int
    paddings: tuple[int, int]
    kernel: tuple[int, int]
    dilations: tuple[int, int]
    reach: tuple[tuple[int, int], tuple[int, int]]
    growth: tuple[int, int]
    surplus: tuple[int, int]

    @classmethod
    def of(cls, node: ir.Node) -> _Unfolding | None:
        """None where the rewriting does not apply: not 2-d, strides that differ, sizes left to `auto_pad`."""
        weight = Weight.of(node.inputs[1])
        attributes = node.attributes
        strides = attributes.get_ints("strides", (1, 1))
        if weight is None or weight.integers.ndim != 4 or len(set(strides)) != 1 or "output_shape" in attributes:
            return None
        if attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return None
        s, pads = strides[0], attributes.get_ints("pads", (0, 0, 0, 0))
        dilations, extra = attributes.get_ints("dilations", (1, 1)), attributes.get_ints("output_padding", (0, 0))
        kernel = tuple((k - 1) * d + 1 for k, d in zip(weight.integers.shape[2:], dilations, strict=True))
        reach = tuple(_reach(k, s, p) for k, p in zip(kernel, pads[:2], strict=True))
        longer = [k - pads[i] - pads[i + 2] + extra[i] - s for i, k in enumerate(kernel)]  # output - s * input
        # Rounded up: each column of the convolution becomes s columns,
        # and those too many at the end are cropped (`surplus`).
        growth = tuple(-(-each // s) for each in longer)
        surplus = tuple(s * g - each for g, each in zip(growth, longer, strict=True))
        if any(g - low < 0 for g, (low, _) in zip(growth, reach, strict=True)):
            return None  # more padding than the kernel reaches: not seen in practice
        sizes: Any = (pads[:2], kernel, dilations, reach, growth, surplus)
        return cls(s, attributes.get_int("group", 1), *(tuple(each) for each in sizes))

    @property
    def pads(self) -> list[int]:
        """Of the ordinary convolution, as ONNX orders them."""
        # Tap i of the convolution is d = high - i, and reads q - d: with `high` columns of padding in front that is q -
        # high + i. Behind, so much that the output has input + growth columns.
        begins = [high for _, high in self.reach]
        ends = [g - low for g, (low, _) in zip(self.growth, self.reach, strict=True)]
        return begins + ends

    def weight(self, weight: Weight) -> Weight:
        """(Cin, Cout / groups, kH, kW) -> (Cout * s * s, Cin / groups, taps, taps)."""
        s, source = self.stride, weight.integers
        zero = _zero_of(weight)
        inner, outer = source.shape[0] // self.groups, source.shape[1]
        dilated = np.full((*source.shape[:2], *self.kernel), zero, np.int8)
        dilated[:, :, :: self.dilations[0], :: self.dilations[1]] = source
        taps = [high - low + 1 for low, high in self.reach]
        # CRD order of DepthToSpace (pixel shuffle): channel (c * s + y) * s + x becomes pixel (y, x) of channel c.
        target = np.full((self.groups, outer, s, s, inner, *taps), zero, np.int8)
        grouped = dilated.reshape(self.groups, inner, outer, *self.kernel).swapaxes(1, 2)
        for y, i, ky in _taps(self.kernel[0], s, self.paddings[0], self.reach[0]):
            for x, j, kx in _taps(self.kernel[1], s, self.paddings[1], self.reach[1]):
                target[:, :, y, x, :, i, j] = grouped[:, :, :, ky, kx]
        integers = target.reshape(self.groups * outer * s * s, inner, *taps)
        if not weight.scale.ndim:
            return Weight(integers, weight.scale, weight.zero_point, 0)
        # One scale per position within a group (the weight's dimension
        # 1): s * s channels each, and the same in every group.
        scale, zeros = (np.tile(np.repeat(each, s * s), self.groups) for each in (weight.scale, weight.zero_point))
        return Weight(integers, scale, zeros, 0)


def _reach(kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """The smallest and largest d such that a phase r has tap r + p + s d in [0, kernel)."""
    pairs = [(r, k) for r in range(stride) for k in range(kernel)]
    found = [(k - r - padding) // stride for r, k in pairs if (k - r - padding) % stride == 0]
    return min(found), max(found)


def _taps(kernel: int, stride: int, padding: int, reach: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(phase, tap of the ordinary convolution, tap of the transposed one)."""
    low, high = reach
    pairs = [(r, d, r + padding + stride * d) for r in range(stride) for d in range(low, high + 1)]
    return [(r, high - d, k) for r, d, k in pairs if 0 <= k < kernel]


def _crop(graph: ir.Graph, value: ir.Value, surplus: tuple[int, int], name: str) -> ir.Node:
    """A Slice that drops the surplus at the bottom and on the right."""
    ends = [-each if each else np.iinfo(np.int64).max for each in surplus]
    parts = (("starts", [0, 0]), ("ends", ends), ("axes", [2, 3]))
    inputs = [initializer(graph, f"{name}_{kind}", np.array(given, np.int64)) for kind, given in parts]
    return ir.node("Slice", [value, *inputs], name=f"{name}_crop")


def _groups(layer: ir.Node) -> int:
    return layer.attributes.get_int("group", 1) if layer.op_type == "ConvTranspose" else 1


def _scaled(weight: Weight, factor: Array, axis: int, groups: int) -> Weight | None:
    """A weight times a factor per output channel; None where its scales run along something else."""
    if groups > 1:  # a transposed convolution's groups share the scales of dimension 1
        return None
    if weight.scale.ndim and weight.axis != axis:
        return None
    shape = [1] * weight.integers.ndim
    shape[axis] = -1
    others = tuple(i for i in range(weight.integers.ndim) if i != axis)
    scale = weight.scales(len(factor)) * factor
    # A negative gamma. Kernels want positive scales, so the integers change sign instead, where int8 holds them all.
    turned = (scale < 0) & (weight.integers.min(axis=others) > -128) & (not weight.zero_point.any())
    sign = np.where(turned, -1, 1).astype(np.int8)
    scale = scale * sign
    integers = weight.integers * sign.reshape(shape)
    nothing = np.abs(scale) <= _NOTHING * np.abs(scale).max()  # and a bias over such a scale would not fit 32 bits
    integers = np.where(nothing.reshape(shape), _zero_of(weight), integers)
    scale = np.where(nothing, 1.0, scale).astype(np.float32)
    zeros = np.broadcast_to(weight.zero_point, (len(factor),)).astype(np.int8)
    return Weight(integers.astype(np.int8), scale, np.ascontiguousarray(zeros), axis)


def _read_once(value: ir.Value) -> bool:
    """Whether one node reads a value and the network does not return it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _zero_of(weight: Weight) -> int:
    return int(weight.zero_point.flat[0])


def _swap(graph: ir.Graph, layer: ir.Node, last: ir.Node, inputs: list[Any], name: str) -> None:
    """A layer and what was folded into it become one layer with these inputs."""
    made = ir.node(layer.op_type, inputs, layer.attributes, name=layer.name)  # runtimes report layers by it
    made.outputs[0].name = f"{name}_out"
    graph.insert_before(layer, made)
    _take_over(last.outputs[0], made.outputs[0])


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Whoever read `old`, and the graph's outputs, get `new`, with its shape and type."""
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

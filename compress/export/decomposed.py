"""Quantized networks in PyTorch's own words for integers, which ExecuTorch, LiteRT and Core ML lower to kernels.

`DecomposedActivation`, `store_decomposed`: what `deployable(model, "program")` puts into a copy. Weights
are int8 with the trained integers, activations int8 (those of uint8 moved by 128): the same numbers as in ONNX files.
`fold_norms`, `fit_program_biases`, `load_program`, `zeros_like_inputs`, `weights_of`, `put_values`, `explicit_grids`,
`join_on_one_grid`: what becomes of the exported program.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # defines torch.ops.quantized_decomposed
from torch import Tensor, nn

from compress.errors import some
from compress.export.onnx.int8_weights import Int8Weight, fitted
from compress.export.runtimes.base import Source
from compress.io.files import checked

SHIFT = 128  # from the integers of uint8 to those of int8
LAYERS = ("conv1d", "conv2d", "conv3d", "linear")
MOVES = ("view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "contiguous", "clone", "alias")
QUANTIZE, DEQUANTIZE = "quantize_per_tensor", "dequantize_per_tensor"


class DecomposedActivation(nn.Module):
    """A quantized activation as quantize_per_tensor / dequantize_per_tensor over int8.

    Args:
        scale: of the grid.
        zero_point: of the integers from 0 on, [0, 255].
        highest: the largest integer, counted from 0.
    """

    def __init__(self, scale: float, zero_point: int, highest: int) -> None:
        super().__init__()
        self.grid = (scale, zero_point - SHIFT, -SHIFT, 127)
        low, high = -zero_point * scale, (highest - zero_point) * scale
        self.bounds = (low, high) if highest < 255 else None  # kernels know the whole of int8 only

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        x = x if self.bounds is None else x.clamp(*self.bounds)
        operations = torch.ops.quantized_decomposed
        integers = operations.quantize_per_tensor(x, *self.grid, torch.int8)
        found: Tensor = operations.dequantize_per_tensor(integers, *self.grid, torch.int8)
        return found


def store_decomposed(layer: Any, name: str, weight: Int8Weight) -> None:
    """A weight of a layer becomes a dequantize_per_channel of int8 integers, in place."""
    axis = weight.axis if weight.axis is not None else layer.channel_axis
    channels = weight.integers.shape[axis]
    layer._parameters[name] = None
    layer.register_buffer(f"{name}_int8", weight.integers)
    layer.register_buffer(f"{name}_scale", weight.scale.float().expand(channels).contiguous())
    layer.register_buffer(f"{name}_zero_point", weight.zero_point.long().expand(channels).contiguous())
    others = layer.quantized_weight

    def dequantized(which: str = "weight") -> Tensor:
        if which != name:
            held: Tensor = others(which)
            return held
        parts = [getattr(layer, f"{name}_{part}") for part in ("int8", "scale", "zero_point")]
        found: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(*parts, axis, -128, 127, torch.int8)
        return found

    layer.quantized_weight = dequantized  # this instance is our copy; its class stays as it is


@dataclass(frozen=True, eq=False)
class HeldWeight:
    """A quantized weight in a program's module.

    Attributes:
        node: its dequantize_per_channel.
        layer: name of the layer that it belongs to.
        integers: int8.
        scale: per channel.
        values: scale * (integers - zero point).
        symmetric: whether every zero point is 0; kernels of XNNPACK and ncnn take it for that.
    """

    node: Any
    layer: str
    integers: Tensor
    scale: Tensor
    values: Tensor
    symmetric: bool


def load_program(file: str | Path) -> Any:
    """A torch.export program of this bench."""
    torch.set_num_threads(1)
    return torch.export.load(checked(Path(file)))


def drop_aliases(module: Any) -> int:
    """Takes out, in place, operations that give their input again, which some converters do not know; how many."""
    count = 0
    for node in list(module.graph.nodes):
        if is_call(node, "alias") and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            count += 1
    module.recompile()
    return count


def zeros_like_inputs(source: Source) -> tuple[Tensor, ...]:
    """Inputs of a network's sizes and types, for converters that trace it."""
    types = source.types or ("float32",) * len(source.shapes)
    return tuple(torch.zeros(each, dtype=getattr(torch, kind)) for each, kind in zip(source.shapes, types, strict=True))


def is_call(node: Any, *names: str) -> bool:
    """Whether a node calls one of the operations, by their names without overload."""
    return getattr(node, "op", "") == "call_function" and any(
        str(node.target).split(".")[-2] == name for name in names if "." in str(node.target)
    )


def weights_of(module: Any) -> Iterator[HeldWeight]:
    """The quantized weights of a program's module, in its order."""
    for node in module.graph.nodes:
        if is_call(node, "dequantize_per_channel"):
            integers, scale, zero = (module.get_buffer(each.target) for each in node.args[:3])
            shape = [1] * integers.dim()
            shape[node.args[3]] = -1
            values = (integers.float() - zero.reshape(shape)) * scale.reshape(shape)
            layer, symmetric = node.args[0].target.rpartition(".")[0], not bool(zero.any())
            yield HeldWeight(node, layer, integers, scale, values, symmetric)


def asymmetric_note(weights: Iterable[HeldWeight], runtime: str) -> tuple[str, ...]:
    """Says which weights a runtime has in float because their zero points are not 0; empty if none."""
    layers = [each.layer for each in weights if not each.symmetric]
    if not layers:
        return ()
    return (
        f"{some(layers)}: in float, because {runtime} has no kernels for integer weights whose zero point is not 0; "
        "train with symmetric weights (`mode`: {weights: SYMMETRIC}) for integers here",
    )


def fold_norms(module: Any) -> int:
    """Folds BatchNorms into the quantized layers before them, in place; how many.

    gamma / sqrt(var + eps) goes into the scales; where it is negative the integers change sign. No integer is rounded.
    """
    held = {each.node: each for each in weights_of(module)}
    norms = [node for node in module.graph.nodes if is_call(node, "batch_norm")]
    done = sum(_fold(module, norm, held) for norm in norms)
    module.graph.eliminate_dead_code()
    module.recompile()
    return done


def _fold(module: Any, norm: Any, held: dict[Any, HeldWeight]) -> bool:
    layer = norm.args[0]
    if not is_call(layer, *LAYERS) or len(layer.users) != 1:
        return False
    weight = held.get(layer.args[1])
    given = [_tensor(module, each) for each in norm.args[1:5]]
    bias = _tensor(module, layer.args[2]) if len(layer.args) > 2 else None
    if weight is None or len(weight.node.users) != 1 or weight.node.args[3] != 0 or given[2] is None:
        return False
    gamma, beta, mean, variance = (torch.zeros(1) if each is None else each.detach() for each in given)
    factor = (torch.ones(1) if given[0] is None else gamma) * torch.rsqrt(variance + norm.args[7])
    zero = module.get_buffer(weight.node.args[2].target)
    if bool((factor < 0).any()) and min(int(weight.integers.min()), int(zero.min())) == -SHIFT:
        return False
    shape = [-1] + [1] * (weight.integers.dim() - 1)
    # Value = (integer - zero point) * scale * factor; a scale has to stay positive, so the sign goes to the integers
    # and the zero point. Where the factor is 0 the sign is 0, too: integers and zero point of 0 over a scale of 1.
    sign = factor.sign()
    parts = {
        "int8": weight.integers * sign.to(torch.int8).reshape(shape),
        "zero_point": zero * sign.to(zero.dtype),
        "scale": torch.where(factor == 0, 1.0, weight.scale * factor.abs()),
        "bias": (0 if bias is None else bias.detach()) * factor - mean * factor + beta,
    }
    for name, part in parts.items():
        module.get_submodule(weight.layer).register_buffer(f"weight_{name}", part.contiguous())
    with module.graph.inserting_before(weight.node):
        nodes = {name: module.graph.get_attr(f"{weight.layer}.weight_{name}") for name in parts}
    weight.node.args = (nodes["int8"], nodes["scale"], nodes["zero_point"], *weight.node.args[3:])
    layer.args = (*layer.args[:2], nodes["bias"], *layer.args[3:])
    norm.replace_all_uses_with(layer)
    return True


def fit_program_biases(module: Any) -> int:
    """Weights too fine for their layer's bias get a coarser scale, in place; how many. See `int8_weights.fitted`."""
    done = 0
    for weight in weights_of(module):
        integers, scale, zero, axis = weight.node.args[:4]
        layers = [each for each in weight.node.users if is_call(each, *LAYERS)]
        if len(layers) != 1 or len(weight.node.users) != 1 or axis != 0:
            continue
        bias = _tensor(module, layers[0].args[2]) if len(layers[0].args) > 2 else None
        step = _grid_scale(layers[0].args[0])
        zeros = module.get_buffer(zero.target)
        found = fitted(weight.integers, weight.scale, zeros, axis, bias, step) if bias is not None and step else None
        if found is None:
            continue
        done += 1
        for source, part in zip((integers, scale), found, strict=True):
            module.get_submodule(weight.layer).register_buffer(source.target.rpartition(".")[2], part)
    module.recompile()
    return done


def _grid_scale(value: Any) -> float | None:
    """Of the grid that a layer's input is on, through operations that only move values; None where it is on none."""
    while is_call(value, *MOVES):
        value = value.args[0]
    return float(value.args[1]) if is_call(value, DEQUANTIZE) else None


def _tensor(module: Any, node: Any) -> Tensor | None:
    if node is None:
        return None
    owner, _, name = node.target.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), name)
    return found


def put_values(module: Any, weights: Iterable[HeldWeight], quantized: bool = False) -> None:
    """Stores weights as the floats that they stand for, in place.

    Args:
        module: of a program.
        weights: of it.
        quantized: keep quantizing and dequantizing them, which changes no value, for converters that look for that.
    """
    for each in weights:
        name = f"values_of_{each.node.name}"
        module.register_buffer(name, each.values)
        with module.graph.inserting_before(each.node):
            values = module.graph.get_attr(name)
            if quantized:
                operation = torch.ops.quantized_decomposed.quantize_per_channel.default
                made = module.graph.call_function(operation, (values, *each.node.args[1:]))
                each.node.replace_input_with(each.node.args[0], made)
            else:
                each.node.replace_all_uses_with(values)
    module.graph.eliminate_dead_code()
    module.recompile()


def explicit_grids(module: Any) -> None:
    """Writes the grid behind a pooling by maximum, whose values stay on that of its input, in place.

    Kernels look for it there. Each reader gets a dequantize of its own, because a shared one ties its readers together.
    No value changes.
    """
    for node in list(module.graph.nodes):
        if is_call(node, "max_pool2d") and is_call(node.args[0], DEQUANTIZE):
            _round_result(module, node, node.args[0].args[1:])
    for node in [each for each in module.graph.nodes if is_call(each, DEQUANTIZE)]:
        for user in list(node.users)[1:]:
            with module.graph.inserting_before(user):
                user.replace_input_with(node, module.graph.node_copy(node))
    module.recompile()


def join_on_one_grid(module: Any) -> None:
    """Rounds what is concatenated to the grid of the result, in place, as XNNPACK requires; changes no value."""
    for node in list(module.graph.nodes):
        grids = {user.args[1:] if is_call(user, QUANTIZE) else None for user in node.users}
        if is_call(node, "cat") and len(grids) == 1 and (grid := grids.pop()) is not None:
            joined = [each if _is_on(each, grid) else _rounded(module, each, grid, node) for each in node.args[0]]
            node.args = (joined, *node.args[1:])
    module.recompile()


def _is_on(node: Any, grid: tuple[Any, ...]) -> bool:
    return is_call(node, DEQUANTIZE) and node.args[1:] == grid


def _rounded(module: Any, value: Any, grid: tuple[Any, ...], before: Any) -> Any:
    """A value on a grid, written before a node."""
    operations = torch.ops.quantized_decomposed
    with module.graph.inserting_before(before):
        integers = module.graph.call_function(operations.quantize_per_tensor.default, (value, *grid))
        return module.graph.call_function(operations.dequantize_per_tensor.default, (integers, *grid))


def _round_result(module: Any, node: Any, grid: tuple[Any, ...]) -> None:
    readers = [user for user in node.users if not (is_call(user, QUANTIZE) and user.args[1:] == grid)]
    if readers:
        rounded = _rounded(module, node, grid, node.next)
        for each in readers:
            each.replace_input_with(node, rounded)

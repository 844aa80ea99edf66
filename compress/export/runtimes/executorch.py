"""ExecuTorch on the CPU, its layers delegated to XNNPACK."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.export.runtimes.base import Array, Converted, Loaded, Runtime, Source, bytes_of

KERNELS = "integer_layers.json"
_LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear")
_BETWEEN = ("relu", "relu_", "hardtanh", "hardtanh_", "clamp")  # XNNPACK fuses these into the layer


class Executorch(Runtime):
    """Lowers a torch.export program; int8 by the quantize / dequantize operations in it, with our scales."""

    name, packages, install, least = "executorch", ("executorch",), "executorch", (1, 0)
    reads, fixed_sizes = "program", True

    def convert(self, source: Source, folder: str) -> Converted:
        """A `.pte` file, and beside it which layers XNNPACK takes as integers."""
        from compress.export.decomposed import (
            asymmetric_note,
            drop_aliases,
            explicit_grids,
            join_on_one_grid,
            load_program,
            put_values,
            weights_of,
        )

        module = load_program(source.program).module()
        drop_aliases(module)
        join_on_one_grid(module)
        explicit_grids(module)
        merge_clips(module)
        notes = asymmetric_note(weights_of(module), "XNNPACK")
        put_values(module, _float_layers(module))
        lowered = _lowered(module, source)
        left = set(_left_over(lowered.exported_program()))
        if left:  # XNNPACK did not take them, and ExecuTorch itself has no operation for integers
            put_values(module, [each for each in weights_of(module) if each.node.args[0].target in left])
            lowered = _lowered(module, source)
        layers = sorted(set(_integer_layers(lowered.exported_program().graph_module)))
        file = Path(folder) / "network.pte"
        file.write_bytes(lowered.to_executorch().buffer)
        size = bytes_of(folder)
        (Path(folder) / KERNELS).write_text(json.dumps(layers))
        return Converted(str(file), size, notes)

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
        return _Method(file)


def _lowered(module: Any, source: Source) -> Any:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from compress.export.decomposed import zeros_like_inputs

    program = torch.export.export(module, zeros_like_inputs(source))
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def _float_layers(module: Any) -> list[Any]:
    """Quantized weights of layers that XNNPACK cannot run in integers: what they read or give is not quantized, or the
    zero point of the weight, which XNNPACK takes for 0, is not 0.
    """
    from compress.export.decomposed import is_call, weights_of

    found = []
    for weight in weights_of(module):
        layer: Any = next(iter(weight.node.users)) if len(weight.node.users) == 1 else None
        while is_call(layer, "permute", "t", "transpose"):
            layer = next(iter(layer.users))
        whole = is_call(layer, *_LAYERS) and _is_quantized(layer.args[0]) and all(map(_quantizes, layer.users))
        if not (whole and weight.symmetric):
            found.append(weight)
    return found


def merge_clips(module: Any) -> None:
    """A clip behind a ReLU or another clip becomes one clip with it, in place: XNNPACK fuses one into a layer."""
    import torch

    for node in list(module.graph.nodes):
        bounds = _clip_bounds(node)
        if bounds is None or math.isinf(bounds[1]):
            continue
        (low, high), value, done = bounds, node.args[0], [node]
        before = _clip_bounds(value)
        if before is not None and len(value.users) == 1:
            done.append(value)
            low, high = (min(max(each, low), high) for each in before)
            value = value.args[0]
        with module.graph.inserting_before(node):
            merged = module.graph.call_function(torch.ops.aten.hardtanh.default, (value, low, high))
        node.replace_all_uses_with(merged)
        for each in done:
            module.graph.erase_node(each)
    module.recompile()


def _clip_bounds(node: Any) -> tuple[float, float] | None:
    """The lowest and the highest value that an operation lets through; None if it is no clip.

    An operation in place whose input has other readers is none: they read what it wrote.
    """
    from compress.export.decomposed import is_call

    if is_call(node, "relu_", "relu6_", "hardtanh_", "clamp_") and len(node.args[0].users) > 1:
        return None
    if is_call(node, "relu", "relu_"):
        return 0.0, math.inf
    if is_call(node, "relu6", "relu6_"):
        return 0.0, 6.0
    if is_call(node, "hardtanh", "hardtanh_"):
        given = tuple(node.args[1:])
        return (given + (-1.0, 1.0)[len(given) :])[:2]
    given = node.args[1:] if is_call(node, "clamp", "clamp_") else ()
    numbers = [each for each in given if isinstance(each, int | float)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _left_over(program: Any) -> Iterator[str]:
    """Names of the buffers with integer weights that no delegate took."""
    held = program.graph_signature.inputs_to_buffers
    for node in program.graph_module.graph.nodes:
        if "dequantize_per_channel" in str(node.target):
            yield held.get(node.args[0].name, "")


def _integer_layers(module: Any) -> Iterator[str]:
    """Layers of the delegated parts that hold their weight as integers there."""
    for child in module.children():
        program = getattr(child, "original_module", None)
        if program is not None:
            held = {**program.graph_signature.inputs_to_buffers, **program.graph_signature.inputs_to_parameters}
            names = [name for name in held.values() if name.endswith("_int8")]
            yield from (name.rpartition(".")[0] for name in names)


def _is_quantized(node: Any) -> bool:
    from compress.export.decomposed import is_call

    while is_call(node, "view", "permute", "pad", "constant_pad_nd", "reshape"):
        node = node.args[0]
    return is_call(node, "dequantize_per_tensor")


def _quantizes(node: Any) -> bool:
    from compress.export.decomposed import is_call

    if is_call(node, *_BETWEEN):
        return bool(node.users) and all(map(_quantizes, node.users))
    return is_call(node, "quantize_per_tensor")


class _Method(Loaded):
    def __init__(self, file: str) -> None:
        from executorch.runtime import Runtime as Executor

        self._file = file
        self._program = Executor.get().load_program(Path(file))
        self._method = self._program.load_method("forward")

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`."""
        import torch

        given = [torch.from_numpy(each) for each in inputs]
        return [each.detach().numpy().copy() for each in self._method.execute(given)]

    def kernels(self, layers: Sequence[str]) -> list[str]:
        """As they were lowered."""
        found = set(json.loads(Path(self._file).with_name(KERNELS).read_text()))
        return [each for each in layers if each in found]

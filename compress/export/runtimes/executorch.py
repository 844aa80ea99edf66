"""ExecuTorch on the CPU, its layers delegated to XNNPACK."""

import json
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
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from compress.export.decomposed import (
            drop_aliases,
            explicit_grids,
            join_on_one_grid,
            load_program,
            put_values,
            zeros_like_inputs,
        )

        module = load_program(source.program).module()
        drop_aliases(module)
        join_on_one_grid(module)
        explicit_grids(module)
        floats = _float_layers(module)
        put_values(module, floats)
        program = torch.export.export(module, zeros_like_inputs(source))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        layers = sorted(set(_integer_layers(lowered.exported_program().graph_module)))
        file = Path(folder) / "network.pte"
        file.write_bytes(lowered.to_executorch().buffer)
        size = bytes_of(folder)
        (Path(folder) / KERNELS).write_text(json.dumps(layers))
        return Converted(str(file), size)

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
        return _Method(file)


def _float_layers(module: Any) -> list[Any]:
    """Quantized weights of layers that XNNPACK cannot run in integers: what they read or give is not quantized."""
    from compress.export.decomposed import is_call, weights_of

    found = []
    for weight in weights_of(module):
        layer: Any = next(iter(weight.node.users)) if len(weight.node.users) == 1 else None
        while is_call(layer, "permute", "t", "transpose"):
            layer = next(iter(layer.users))
        whole = is_call(layer, *_LAYERS) and _is_quantized(layer.args[0]) and all(map(_quantizes, layer.users))
        if not whole:
            found.append(weight)
    return found


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

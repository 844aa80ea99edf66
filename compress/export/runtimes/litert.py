"""LiteRT (TensorFlow Lite), converted by litert-torch; its kernels are XNNPACK's."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.export.runtimes.base import Array, Converted, Loaded, Runtime, Source, bytes_of
from compress.export.runtimes.executorch import KERNELS

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D")


class Litert(Runtime):
    """Writes `.tflite` files; int8 by the quantize / dequantize operations of the program, with our scales."""

    name, packages, least = "litert", ("ai_edge_litert", "litert_torch"), (2, 0)
    to_run = ("ai_edge_litert",)
    install, reads, fixed_sizes = "ai-edge-litert litert-torch", "program", True

    def convert(self, source: Source, folder: str) -> Converted:
        """See `Runtime`."""
        import litert_torch
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        from compress.export.decomposed import (
            asymmetric_note,
            load_program,
            put_values,
            weights_of,
            zeros_like_inputs,
        )

        module = load_program(source.program).module()
        weights = list(weights_of(module))
        put_values(module, [each for each in weights if each.symmetric], quantized=True)
        put_values(module, [each for each in weights if not each.symmetric])
        config = None
        if source.quantized:  # switches the converter's integer passes on; it quantizes nothing itself
            quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            config = QuantConfig(pt2e_quantizer=quantizer)
        file = Path(folder) / "network.tflite"
        litert_torch.convert(module, zeros_like_inputs(source), quant_config=config).export(str(file))
        size = bytes_of(folder)
        digests = {each.layer: _digest(each.integers) for each in weights}
        (Path(folder) / KERNELS).write_text(json.dumps(digests))
        return Converted(str(file), size, asymmetric_note(weights, self.name))

    def load(self, file: str, precision: str, threads: int, shapes: Sequence[Sequence[int]] | None = None) -> Loaded:
        """See `Runtime`."""
        return _Interpreter(file, threads)


def _digest(integers: Array) -> str:
    """Of a weight's integers in any order of dimensions."""
    return hashlib.sha256(np.sort(np.asarray(integers), axis=None).tobytes()).hexdigest()


def _rounded(array: Array, about: Any) -> Array:
    """An input as its tensor stores it: the file may begin behind the network's first rounding."""
    scale, zero = about["quantization"]
    if about["dtype"] is not np.int8:
        return array
    return np.clip(np.rint(array / scale) + zero, -128, 127).astype(np.int8)


def _values(array: Array, about: Any) -> Array:
    scale, zero = about["quantization"]
    return array if about["dtype"] is not np.int8 else ((array.astype(np.float32) - zero) * scale).astype(np.float32)


class _Interpreter(Loaded):
    def __init__(self, file: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._file = file
        self._interpreter = Interpreter(file, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `Loaded`."""
        for about, each in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(about["index"], _rounded(each, about))
        self._interpreter.invoke()
        return [_values(self._interpreter.get_tensor(each["index"]), each) for each in self._outputs]

    def kernels(self, layers: Sequence[str]) -> list[str]:
        """The layers whose integers an operation on int8 reads."""
        details = {each["index"]: each for each in self._interpreter.get_tensor_details()}
        found = set()
        for operation in self._interpreter._get_ops_details():
            if operation["op_name"] in _LAYERS:
                held = [index for index in operation["inputs"] if index >= 0]
                if sum(details[index]["dtype"].__name__ == "int8" for index in held) == 2:
                    found |= {_digest(self._interpreter.get_tensor(index)) for index in held if self._constant(index)}
        digests = json.loads(Path(self._file).with_name(KERNELS).read_text())
        return [each for each in layers if digests.get(each) in found]

    def _constant(self, index: int) -> bool:
        try:
            self._interpreter.get_tensor(index)
        except ValueError:  # a tensor that only exists while it runs
            return False
        return True

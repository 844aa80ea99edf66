"""One layer as a small ONNX file, in the surroundings that it has in a network, so that its own time can be read.

`kernel_model`, `write_kernels`. A convolution gets and gives the runtime's inner layout there, not that of a file's
ends: before and after it stand 1 x 1 convolutions (linear layers around a linear one).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.analysis.latency_model.layers import Kind
from compress.export.layer_times import LAYER
from compress.io.files import write_bytes
from compress.io.optional import needed

WEIGHTS = "weights.bin"
ENDS = 4  # channels of a file's input and output
OPSET = 17


def write_kernels(kind: Kind, widths: Sequence[tuple[int, int]], int8: bool, folder: Path) -> list[Path]:
    """Writes the file of each pair of widths (in, out); all read their weights from the beginning of one file."""
    files, most = [], 0
    for number, (channels_in, channels_out) in enumerate(widths):
        model = kernel_model(kind, channels_in, channels_out, int8, WEIGHTS)
        most = max([most, *(math.prod(each.dims) for each in model.graph.initializer if each.external_data)])
        files.append(folder / f"{number}.onnx")
        write_bytes(files[-1], model.SerializeToString())
    write_bytes(folder / WEIGHTS, _drawn(np.random.default_rng(0), (most,), int8).tobytes())
    return files


def _drawn(draw: np.random.Generator, shape: tuple[int, ...], int8: bool) -> Any:
    """Weights of a layer: int8 in [-127, 127], or standard normal float32."""
    return draw.integers(-127, 128, shape, dtype=np.int8) if int8 else draw.normal(size=shape).astype(np.float32)


def kernel_model(kind: Kind, channels_in: int, channels_out: int, int8: bool, weights: str = "") -> Any:
    """An ONNX model: input, a small layer, the layer of this kind, a small layer, output.

    Args:
        kind: of the layer.
        channels_in: its width; of a grouped convolution a multiple of the groups.
        channels_out: likewise; ignored for a depthwise one.
        int8: with QuantizeLinear and DequantizeLinear around every weight and activation, as exported files have them.
        weights: file beside the model that holds the weights of each layer, from its beginning on; empty: inside.
    """
    onnx = needed("onnx", "measuring layers")
    return _Builder(onnx, kind, int8, weights).model(channels_in, channels_in if kind.groups == 0 else channels_out)


class _Builder:
    def __init__(self, onnx: Any, kind: Kind, int8: bool, weights: str) -> None:
        self._onnx, self._kind, self._int8, self._weights = onnx, kind, int8, weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._draw = np.random.default_rng(0)

    def model(self, channels_in: int, channels_out: int) -> Any:
        helper, types = self._onnx.helper, self._onnx.TensorProto
        linear = self._kind.operation == "linear"
        shape = [self._kind.size[0], ENDS] if linear else [self._kind.size[0], ENDS, *self._kind.size[1:]]
        end = self._quantized("x", "first")
        end = self._layer("before", end, ENDS, channels_in, plain=True)
        end = self._layer(LAYER, end, channels_in, channels_out, plain=False)
        end = self._layer("after", end, channels_out, ENDS, plain=True)
        graph = helper.make_graph(
            self._nodes, "kernel",
            [helper.make_tensor_value_info("x", types.FLOAT, shape)],
            [helper.make_tensor_value_info(end, types.FLOAT, None)],
            self._constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        return model

    def _layer(self, name: str, source: str, channels_in: int, channels_out: int, plain: bool) -> str:
        """A layer with its activation (and quantization); `plain` ones are 1 x 1."""
        kind = self._kind
        groups = 1 if plain else kind.groups or channels_in
        if kind.operation == "linear":
            weight = self._weight(name, (channels_out, channels_in))
            self._add("Gemm", name, [source, weight, *self._bias(name, channels_out)], f"{name}_y", transB=1)
        else:
            kernel = (1, 1) if plain else kind.kernel
            weight = self._weight(name, (channels_out, channels_in // groups, *kernel))
            given: dict[str, Any] = {"kernel_shape": kernel}
            if not plain:
                given |= {"strides": kind.stride, "pads": [*kind.padding, *kind.padding], "dilations": kind.dilation}
                given["group"] = groups
            self._add("Conv", name, [source, weight, *self._bias(name, channels_out)], f"{name}_y", **given)
        self._add("Relu", f"{name}_relu", [f"{name}_y"], f"{name}_z")
        return self._quantized(f"{name}_z", f"{name[0]}q_{name.lower()}")

    def _quantized(self, source: str, name: str) -> str:
        if not self._int8:
            return source
        scale, zero = self._constant(f"{name}_s", np.float32(0.02)), self._constant(f"{name}_0", np.uint8(0))
        self._add("QuantizeLinear", f"q_{name}", [source, scale, zero], f"{name}_int")
        self._add("DequantizeLinear", f"dq_{name}", [f"{name}_int", scale, zero], f"{name}_float")
        return f"{name}_float"

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        found = self._drawn(f"{name}_w", shape)
        if not self._int8:
            return found
        scale = self._constant(f"{name}_ws", np.full(shape[0], 0.01, np.float32))
        zero = self._constant(f"{name}_w0", np.zeros(shape[0], np.int8))
        self._add("DequantizeLinear", f"dqw_{name}", [found, scale, zero], f"{name}_wf", axis=0)
        return f"{name}_wf"

    def _drawn(self, name: str, shape: tuple[int, ...]) -> str:
        if not self._weights:
            return self._constant(name, _drawn(self._draw, shape, self._int8))
        types = self._onnx.TensorProto
        tensor = types(name=name, dims=shape, data_type=types.INT8 if self._int8 else types.FLOAT)
        tensor.data_location = types.EXTERNAL
        size = math.prod(shape) * (1 if self._int8 else 4)
        for key, value in (("location", self._weights), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        self._constants.append(tensor)
        return name

    def _bias(self, name: str, channels: int) -> list[str]:
        return [] if self._int8 else [self._constant(f"{name}_b", np.zeros(channels, np.float32))]

    def _constant(self, name: str, value: Any) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, operation: str, name: str, inputs: list[str], output: str, **given: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operation, inputs, [output], name=name, **given))

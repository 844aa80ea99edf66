"""One layer as a small ONNX file, in the surroundings that it has in a network, so that its own time can be read.

`kernel_model`. A convolution gets and gives the runtime's inner layout there, not that of a file's ends: before and
after it stand 1 x 1 convolutions (linear layers around a linear one).
"""

from typing import Any

import numpy as np

from compress.analysis.latency_model.layers import Kind
from compress.io.optional import needed

LAYER = "LAYER"  # names of the measured nodes begin with it
ENDS = 4  # channels of a file's input and output
OPSET = 17


def kernel_model(kind: Kind, channels_in: int, channels_out: int, int8: bool) -> Any:
    """An ONNX model: input, a small layer, the layer of this kind, a small layer, output.

    Args:
        kind: of the layer.
        channels_in: its width; of a grouped convolution a multiple of the groups.
        channels_out: likewise; ignored for a depthwise one.
        int8: with QuantizeLinear and DequantizeLinear around every weight and activation, as exported files have them.
    """
    onnx = needed("onnx", "measuring layers")
    return _Builder(onnx, kind, int8).model(channels_in, channels_in if kind.groups == 0 else channels_out)


class _Builder:
    def __init__(self, onnx: Any, kind: Kind, int8: bool) -> None:
        self._onnx, self._kind, self._int8 = onnx, kind, int8
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
        if not self._int8:
            return self._constant(f"{name}_w", self._draw.normal(size=shape).astype(np.float32))
        values = self._draw.integers(-127, 128, shape, dtype=np.int8)
        scale = self._constant(f"{name}_ws", np.full(shape[0], 0.01, np.float32))
        zero = self._constant(f"{name}_w0", np.zeros(shape[0], np.int8))
        self._add("DequantizeLinear", f"dqw_{name}", [self._constant(f"{name}_w", values), scale, zero], f"{name}_wf",
                  axis=0)  # fmt: skip
        return f"{name}_wf"

    def _bias(self, name: str, channels: int) -> list[str]:
        return [] if self._int8 else [self._constant(f"{name}_b", np.zeros(channels, np.float32))]

    def _constant(self, name: str, value: Any) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, operation: str, name: str, inputs: list[str], output: str, **given: Any) -> None:
        self._nodes.append(self._onnx.helper.make_node(operation, inputs, [output], name=name, **given))

"""Rewritten graphs compute what the original ones did, integers stay integers."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compress.export.onnx.rewriting.passes import improve

OPSET = [helper.make_opsetid("", 20)]
draw = np.random.default_rng(0)


def weight(name: str, integers: np.ndarray, axis: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """DequantizeLinear of random per-channel scales along an axis."""
    channels = integers.shape[axis]
    arrays = {
        f"{name}_q": integers.astype(np.int8),
        f"{name}_s": draw.uniform(0.01, 0.1, channels).astype(np.float32),
        f"{name}_z": np.zeros(channels, np.int8),
    }
    node = helper.make_node("DequantizeLinear", list(arrays), [name], axis=axis, name=f"dq_{name}")
    return node, [onnx.numpy_helper.from_array(array, each) for each, array in arrays.items()]


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)


def model_of(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], dims: int = 4) -> onnx.ModelProto:
    sizes: list[str | int] = ["n", 4, "h", "w"][:dims]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"][:dims])],
        constants,
    )
    return helper.make_model(graph, opset_imports=OPSET, ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The output in float, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
    return np.asarray(found)


def improved(model: onnx.ModelProto, x: np.ndarray, tolerance: float = 2e-5) -> Counter[str]:
    """The kinds of nodes after `improve`, which must leave the outputs as they were."""
    before = run(model, x)
    changed = ir.from_proto(model)
    improve(changed)
    after = ir.to_proto(changed)
    onnx.checker.check_model(after)
    found = run(after, x)
    assert found.shape == before.shape
    np.testing.assert_allclose(found, before, atol=tolerance * max(1.0, float(np.abs(before).max())), rtol=0)
    assert all(each.data_type == TensorProto.INT8 for each in after.graph.initializer if each.name.endswith("_int8"))
    return Counter(node.op_type for node in after.graph.node)


def norm(channels: int) -> list[onnx.TensorProto]:
    gamma = draw.uniform(0.5, 2, channels) * np.where(np.arange(channels) % 2, 1, -1)
    gamma[-1] = 0
    rest = {"beta": draw.normal(size=channels), "mean": draw.normal(size=channels), "var": draw.uniform(1, 2, channels)}
    return [constant("gamma", gamma), *(constant(name, array) for name, array in rest.items())]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_batch_norm_is_folded(kind: str, bias: bool) -> None:
    shape, axis, dims = {
        "Conv": ((6, 4, 3, 3), 0, 4), "ConvTranspose": ((4, 6, 3, 3), 1, 4), "Gemm": ((6, 4), 0, 2),
    }[kind]  # fmt: skip
    dq, constants = weight("w", draw.integers(-127, 128, shape), axis)
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    attributes = {"transB": 1} if kind == "Gemm" else {"pads": [1, 1, 1, 1]}
    layer = helper.make_node(kind, inputs, ["c"], name="layer", **attributes)
    batch_norm = helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], name="bn")
    constants += [*norm(6), *([constant("b", draw.normal(size=6))] if bias else [])]
    x = draw.normal(size=(2, 4, 5, 7)[:dims]).astype(np.float32)
    kinds = improved(model_of([dq, layer, batch_norm], constants, dims), x)
    assert "BatchNormalization" not in kinds


def test_a_channel_that_cannot_change_sign_gets_a_negative_scale() -> None:
    integers = draw.integers(-127, 128, (6, 4, 3, 3))
    integers[0, 0, 0, 0] = -128
    dq, constants = weight("w", integers, 0)
    layer = helper.make_node("Conv", ["x", "w"], ["c"], name="layer")
    batch_norm = helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], name="bn")
    kinds = improved(model_of([dq, layer, batch_norm], constants + norm(6)), draw.normal(size=(1, 4, 5, 5)).astype("f"))
    assert "BatchNormalization" not in kinds


GEOMETRIES = [
    # kernel, stride, padding, output padding, groups, dilation
    (4, 2, 1, 0, 1, 1),
    (2, 2, 0, 0, 1, 1),
    (3, 2, 1, 1, 1, 1),
    (9, 2, 4, 1, 1, 1),
    (3, 2, 0, 0, 1, 1),
    (5, 3, 1, 0, 1, 1),
    (3, 2, 0, 1, 2, 1),
    (4, 2, 1, 0, 4, 1),
    (3, 2, 2, 1, 1, 2),
    (3, 1, 1, 0, 1, 1),
    (2, 3, 0, 1, 1, 1),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra", "groups", "dilation"), GEOMETRIES)
def test_transposed_convolutions_become_ordinary_ones(
    kernel: int, stride: int, padding: int, extra: int, groups: int, dilation: int
) -> None:
    dq, constants = weight("w", draw.integers(-127, 128, (4, 3, kernel, kernel)), 1)
    layer = helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], name="up", strides=[stride] * 2, pads=[padding] * 4, group=groups,
        output_padding=[extra] * 2, dilations=[dilation] * 2,
    )  # fmt: skip
    constants.append(constant("b", draw.normal(size=3 * groups)))
    x = draw.normal(size=(2, 4, 5, 6)).astype(np.float32)
    kinds = improved(model_of([dq, layer], constants), x)
    assert "ConvTranspose" not in kinds
    assert kinds["Conv"] == 1
    assert kinds["DepthToSpace"] == int(stride > 1)


def test_strides_that_differ_stay_a_transposed_convolution() -> None:
    dq, constants = weight("w", draw.integers(-127, 128, (4, 3, 2, 2)), 1)
    layer = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[1, 2])
    assert improved(model_of([dq, layer], constants), draw.normal(size=(1, 4, 3, 3)).astype("f"))["ConvTranspose"] == 1


def test_a_transposed_weight_is_stored_that_way_round() -> None:
    dq, constants = weight("w", draw.integers(-127, 128, (6, 4)), 0)
    turn = helper.make_node("Transpose", ["w"], ["t"], name="turn", perm=[1, 0])
    layer = helper.make_node("MatMul", ["x", "t"], ["y"], name="mul")
    kinds = improved(model_of([dq, turn, layer], constants, 2), draw.normal(size=(5, 4)).astype("f"))
    assert kinds == {"DequantizeLinear": 1, "MatMul": 1}

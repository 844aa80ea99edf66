"""Rounding goes past what only moves values: no value changes, and onnxruntime computes the layers in integers."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import nn

from compress.export.onnx.check import kernel_kinds
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.rewriting.moves import keep_integers
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from tests.compress.export.onnx.rewriting.test_passes import constant, draw, model_of, run, weight

X = draw.normal(size=(1, 4, 6, 6)).astype(np.float32)
Q, DQ = "QuantizeLinear", "DequantizeLinear"


def integers(name: str, values: list[int]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


GIVEN = (
    integers("sides", [0, 0, 1, 1, 0, 0, 1, 1]), constant("nothing", np.float32(0)), constant("one_", np.float32(1)),
    integers("starts", [0]), integers("ends", [5]), integers("axes", [2]),
)  # fmt: skip
SHUFFLE = helper.make_node("DepthToSpace", ["c"], ["m"], blocksize=2, mode="CRD")


def rounded(value: str, name: str, channels: int = 0) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """QuantizeLinear and DequantizeLinear of one scale, or of one a channel."""
    shape = (channels,) if channels else ()
    constants = [
        constant(f"{name}_scale", np.full(shape, 0.05, np.float32)),
        onnx.numpy_helper.from_array(np.full(shape, 3, np.uint8), f"{name}_zero"),
    ]
    names = [each.name for each in constants]
    nodes = [
        helper.make_node(Q, [value, *names], [f"{name}_q"], name=f"{name}_quantize"),
        helper.make_node(DQ, [f"{name}_q", *names], [name], name=f"{name}_dequantize"),
    ]
    return nodes, constants


def between(moves: list[onnx.NodeProto], last: str, channels: int = 4, scales: int = 0) -> onnx.ModelProto:
    """x -> rounded -> Conv `c` -> moves, the last one giving `m` -> rounded `b`; Conv of `last` -> y."""
    wide = draw.integers(-127, 128, (4, 4, 1, 1)), draw.integers(-127, 128, (4, channels, 1, 1))
    parts = [weight(name, each, 0) for name, each in zip("vw", wide, strict=True)]
    first, second = rounded("x", "a"), rounded("m", "b", scales)
    behind = [each for each in moves if each.input[0] == "b"]
    nodes = [*first[0], *(node for node, _ in parts), helper.make_node("Conv", ["a", "v"], ["c"], name="one"),
             *(each for each in moves if each not in behind), *second[0], *behind,
             helper.make_node("Conv", [last, "w"], ["y"], name="two")]  # fmt: skip
    return model_of(nodes, [*first[1], *second[1], *(each for _, given in parts for each in given), *GIVEN])


def path_of(model: onnx.ModelProto) -> list[str]:
    """Kinds of the nodes between the convolutions, after the rewriting, which must leave every value as it was."""
    changed = ir.from_proto(model)
    keep_integers(changed.graph)
    after = ir.to_proto(changed)
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_array_equal(run(after, X), run(model, X))
    producers = {output: node for node in after.graph.node for output in node.output}
    node, found = next(each for each in after.graph.node if each.name == "two"), []
    while node.name != "one":
        node = producers[node.input[0]]
        found.append(node.op_type)
    return found[-2::-1]


def pad(mode: str, *value: str) -> onnx.NodeProto:
    return helper.make_node("Pad", ["b", "sides", *value], ["p"], mode=mode)


SLICE = helper.make_node("Slice", ["d", "starts", "ends", "axes"], ["m"])
SHUFFLE_D = helper.make_node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD")
SAME = helper.make_node("Identity", ["c"], ["m"])


@pytest.mark.parametrize(("moves", "last", "channels", "path"), [
    ([SHUFFLE], "b", 1, [Q, "DepthToSpace", DQ]),
    ([SHUFFLE_D, SLICE], "b", 1, [Q, "DepthToSpace", "Slice", DQ]),
    ([SAME, pad("reflect")], "p", 4, ["Identity", Q, "Pad", DQ]),
    ([SAME, pad("constant")], "p", 4, ["Identity", Q, "Pad", DQ]),
    ([SAME, pad("constant", "nothing")], "p", 4, ["Identity", Q, "Pad", DQ]),
    ([SAME, pad("constant", "one_")], "p", 4, ["Identity", Q, DQ, "Pad"]),
    ([SHUFFLE, pad("edge")], "p", 1, [Q, "DepthToSpace", "Pad", DQ]),
])  # fmt: skip
def test_what_stands_between_two_layers(moves: list[onnx.NodeProto], last: str, channels: int, path: list[str]) -> None:
    assert path_of(between(moves, last, channels)) == path


def test_what_stays_where_it_is() -> None:
    """Scales of channels, which a shuffle mixes, and a value that something else reads in float."""
    assert path_of(between([SHUFFLE], "b", 1, scales=1)) == ["DepthToSpace", Q, DQ]
    twice = between([SHUFFLE], "b", 1)
    twice.graph.node.append(helper.make_node("Relu", ["m"], ["unused"]))
    twice.graph.output.append(helper.make_tensor_value_info("unused", onnx.TensorProto.FLOAT, ["a", "b", "c", "d"]))
    assert path_of(twice) == ["DepthToSpace", Q, DQ]


@pytest.mark.slow
@pytest.mark.parametrize("padding", [nn.ReflectionPad2d(1), nn.ZeroPad2d(1), nn.ReplicationPad2d(1)])
def test_a_decoder_runs_in_integers(padding: nn.Module, tmp_path: Path) -> None:
    """A transposed convolution and a padded one, as image-to-image networks end with."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), nn.ReLU(),
        padding, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1),
    )  # fmt: skip
    x = torch.rand(1, 3, 16, 16)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8, bits_weights=8, per_channel_wts=True, round_results="all", example_inputs=x
    )
    quantizer.prepare(net, None)
    quantizer.convert(net)
    with torch.no_grad():
        net.train()(x)
    report = transform_to_onnx(net.eval(), tmp_path / "net.onnx", x, True, "qdq", x)
    assert kernel_kinds(Path(report.file))["QLinearConv"] == 4
    assert report.difference.max < 0.02

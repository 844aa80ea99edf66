"""Narrow formats through the whole export: they run in onnxruntime, are as near as their digits allow, and smaller."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.narrow.formats import FORMATS
from compress.export.onnx.session import open_session, run_session
from compress.quantization.dorefa import DorefaQuantizer
from compress.quantization.lsq import LSQQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from options.Normal_options.test_options import TestOptions
from tests.compress.export.onnx.test_full_integer import quantized

EXAMPLE = torch.empty(1, 3, 16, 16)


class Small(nn.Module):
    """Every kind of layer with weights: plain, grouped and transposed convolutions, linear, a plain product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(32)
        self.grouped, self.norm = nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(32)
        self.up = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.fc = nn.Linear(8, 40)
        self.matrix = nn.Parameter(torch.randn(40, 5) / 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.grouped(self.act(self.first(x)))))
        x = nn.functional.interpolate(self.up(x), scale_factor=0.5, mode="bilinear")
        return torch.relu(self.fc(x.mean((2, 3)))) @ self.matrix


def exported(model: nn.Module, file: Path, quantize: bool = False, **settings: Any) -> ExportReport:
    inputs = [torch.rand(2, 3, 16, 16), torch.rand(1, 3, 24, 16)]
    return transform_to_onnx(model, file, EXAMPLE, quantize, "qdq", inputs, ExportSettings(**settings))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


BITS = {"float16": 16, "bfloat16": 16, "float8": 8, "int4": 4}
# rounding error of one number: half a unit in the last of 11, 8, 4 bits; of 4-bit integers a 14th of the largest
NEAR = {"float16": 2**-11, "bfloat16": 2**-9, "float8": 2**-4, "int4": 1 / 14}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in ("float16", "int4") else pytest.mark.slow) for each in BITS]
)
def test_a_float_network_is_narrow_and_near(name: str, small: nn.Module, here: Path) -> None:
    report = exported(small, here / "net.onnx", format=name)
    assert report.format == name
    assert report.difference.max < 4 * NEAR[name] * report.difference.largest  # a few layers' errors add up
    assert f"float in {name}" in str(report)
    file = onnx.load(here / "net.onnx")
    wanted = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16,
              "float8": onnx.TensorProto.FLOAT8E4M3FN, "int4": onnx.TensorProto.INT4}[name]  # fmt: skip
    weights = [each for each in file.graph.initializer if np.prod(each.dims) >= 200]
    assert [each.data_type for each in weights] == [wanted] * 5
    assert all(8 * len(each.raw_data) == BITS[name] * np.prod(each.dims) for each in weights)


@pytest.mark.slow
def test_inputs_and_outputs_stay_float32(small: nn.Module, here: Path) -> None:
    exported(small, here / "net.onnx", format="float16")
    (output,) = run_session(open_session(here / "net.onnx"), (torch.rand(1, 3, 16, 16),))
    assert output.dtype == torch.float32


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        pytest.param(LSQQuantizer, {"bits_activations": 8, "bits_weights": 4}, marks=pytest.mark.slow),
        pytest.param(
            QuantAwareTrainRangeLinearQuantizer,
            {"bits_activations": 8, "bits_weights": 4, "per_channel_wts": True},
            marks=pytest.mark.slow,
        ),
        (
            QuantAwareTrainRangeLinearQuantizer,
            {"bits_activations": 8, "bits_weights": 4, "mode": "ASYMMETRIC_SIGNED"},
        ),
        pytest.param(
            QuantAwareTrainRangeLinearQuantizer, {"bits_activations": 8, "bits_weights": 3}, marks=pytest.mark.slow
        ),
    ],
)
def test_trained_four_bit_weights_are_held_exactly(cls: Any, settings: dict[str, Any], here: Path) -> None:
    torch.manual_seed(0)
    model = quantized(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)), cls, **settings)
    wide, narrow = exported(model, here / "int8.onnx", True), exported(model, here / "int4.onnx", True, format="int4")
    assert not [each for each in narrow.warnings if "int8" in each]
    assert narrow.unfused is not None
    assert wide.unfused is not None
    assert narrow.unfused.max <= wide.unfused.max + 1e-6
    tensors = _weights(here / "int4.onnx"), _weights(here / "int8.onnx")
    for found, wanted in zip(*tensors, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def _weights(file: Path) -> list[Any]:
    """The values of dequantized weights, by the rule of the specification."""
    graph = onnx.load(file).graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in held and held[node.input[0]].ndim == 4:
            integers, scale, zero = (held[each].astype(np.float64) for each in node.input)
            along = (-1, 1, 1, 1) if scale.ndim else ()
            found.append((integers - zero.reshape(along)) * scale.reshape(along))
    assert found
    return found


def test_what_sixteen_integers_do_not_reach_stays_int8_by_name(here: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model = quantized(net, DorefaQuantizer, bits_activations=8, bits_weights=4)
    with pytest.raises(UserError, match="changes nothing here: every layer's weights need more than 16 integers"):
        exported(model, here / "net.onnx", True, format="int4")
    assert not (here / "net.onnx").exists()
    mixed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model = quantized(mixed, LSQQuantizer, bits_activations=8, bits_weights=4, overrides={"0": {"bits_weights": 8}})
    report = exported(model, here / "net.onnx", True, format="int4")
    assert any("1 of 2 layers stay int8" in each for each in report.warnings), report.warnings


@pytest.mark.parametrize(
    ("settings", "quantize", "message"),
    [
        ({"format": "int3"}, False, "unknown format 'int3' of ONNX files; did you mean 'int4'"),
        ({"format": "float16"}, True, "format='float16' is for float networks.*narrower in int4"),
    ],
)
def test_what_a_format_is_not_for(settings: dict[str, Any], quantize: bool, message: str, here: Path) -> None:
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    if quantize:
        net = quantized(net, LSQQuantizer, bits_activations=8, bits_weights=8)
    with pytest.raises(UserError, match=message):
        exported(net, here / "net.onnx", quantize, **settings)
    assert not (here / "net.onnx").exists()


def test_ranges_need_real_inputs_and_float16_an_end(here: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match="real inputs; give check_inputs"):
        transform_to_onnx(net, here / "net.onnx", EXAMPLE, False, settings=ExportSettings(format="float8"))
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(UserError, match=r"0\.weight holds 1e\+06, and float16 ends at 65504; bfloat16 has"):
        exported(net, here / "net.onnx", format="float16")
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = torch.finfo(torch.float32).min  # as masks of attention have it
    with pytest.raises(UserError, match=r"ends at 65504; masks of torch\.finfo\(torch\.float32\)\.min may be float"):
        exported(net, here / "net.onnx", format="float16")


def test_the_option_offers_every_format() -> None:
    assert TestOptions().parse(["--formats", *FORMATS]).formats == tuple(FORMATS)


class Shared(nn.Module):
    """One weight read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def judged(net: nn.Module, x: torch.Tensor, file: Path, name: str) -> ExportReport:
    return transform_to_onnx(net.eval(), file, x, False, "qdq", x, ExportSettings(format=name))


@pytest.mark.parametrize("name", ["float8", "int4"])
def test_a_weight_that_two_layers_read_is_stored_once(name: str, here: Path) -> None:
    torch.manual_seed(0)
    report = judged(Shared(), torch.rand(4, 16), here / "net.onnx", name)
    assert report.difference.max < 4 * NEAR[name] * report.difference.largest
    weights = [each for each in onnx.load(here / "net.onnx").graph.initializer if np.prod(each.dims) == 256]
    assert len(weights) == 1


@pytest.mark.slow
def test_a_relu_in_front_of_fp8_is_computed(here: Path) -> None:
    """onnxruntime removes it where it takes the zero point for that of uint8: negative values would pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    report = judged(net, torch.randn(2, 3, 9, 9), here / "net.onnx", "float8")
    assert report.difference.max < 2 * NEAR["float8"] * report.difference.largest
    assert report.unfused is not None
    assert report.difference.mean < 1.5 * report.unfused.mean


class Masked(nn.Module):
    """An attention mask, and positions as floats."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.layer(x).unsqueeze(2) + self.mask).softmax(2)
        return weights * torch.arange(x.shape[0], dtype=torch.float32).reshape(-1, 1, 1)


@pytest.mark.slow
def test_float16_holds_infinite_masks_and_counts_positions(here: Path) -> None:
    torch.manual_seed(0)
    report = judged(Masked(), torch.rand(3, 4), here / "net.onnx", "float16")
    assert report.difference.max < 4 * NEAR["float16"] * report.difference.largest
    assert report.nodes["Range"] == 1

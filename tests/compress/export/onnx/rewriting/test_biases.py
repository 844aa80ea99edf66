"""Biases beside weights that are next to nothing: onnxruntime's integer kernels give what PyTorch gives."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import nn

from compress import PostTrainLinearQuantizer, export_onnx
from compress.export.onnx.rewriting.biases import fit_biases
from tests.compress.export.onnx.rewriting.test_passes import constant, draw, model_of, weight


def _layers(kind: str) -> tuple[nn.Module, torch.Tensor]:
    x = torch.rand(4, 3, 6, 6)
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 2)), x
    if kind == "transposed":
        return nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 2, 1)), x
    norm = nn.BatchNorm2d(8) if kind == "norm" else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 2, 1)), x


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_only_scales_that_are_too_fine_become_coarser(kind: str) -> None:
    """The bias over input scale x weight scale fits 32 bits; weights of ordinary size keep integers and scale."""
    shape, dims = {"Conv": ((6, 4, 3, 3), 4), "Gemm": ((6, 4), 2)}[kind]
    dq, constants = weight("w", draw.integers(-127, 128, shape), 0)
    (integers, scales, _), step = (onnx.numpy_helper.to_array(each) for each in constants), np.float32(0.01)
    tiny = scales.copy()
    tiny[[1, 4]] *= np.float32(1e-8)
    constants[1] = onnx.numpy_helper.from_array(tiny, "w_s")
    constants += [constant("step", step), onnx.numpy_helper.from_array(np.zeros((), np.uint8), "zero")]
    constants.append(constant("b", np.array([0.5, 0.5, -0.5, 0.5, -0.5, 0.0])))
    rounding = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["r"]),
    ]
    attributes = {"transB": 1} if kind == "Gemm" else {}
    layer = helper.make_node(kind, ["r", "w", "b"], ["y"], name="layer", **attributes)
    model = ir.from_proto(model_of([*rounding, dq, layer], constants, dims))
    assert fit_biases(model.graph) == []  # what is lost is next to nothing beside the other channels
    found = ir.to_proto(model)
    onnx.checker.check_model(found)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in found.graph.initializer}
    new, kept = arrays["y_fitting_scale"], [0, 2, 3, 5]
    assert found.graph.node[-1].input[1] == "y_fitting_values"
    assert (new[kept] == scales[kept]).all()
    assert (arrays["y_fitting_int8"][kept] == integers[kept]).all()
    assert (0.5 / (step * new.astype(np.float64)) <= 2**30 + 2**7).all()
    lost = np.abs(arrays["y_fitting_int8"][[1, 4]].reshape(2, -1) * new[[1, 4], None]
                  - integers[[1, 4]].reshape(2, -1) * tiny[[1, 4], None])  # fmt: skip
    assert lost.max() <= 0.5 * new[1] * 1.01


def test_an_input_that_is_not_rounded_needs_no_fit() -> None:
    dq, constants = weight("w", draw.integers(-127, 128, (6, 4, 3, 3)), 0)
    layer = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer")
    model = ir.from_proto(model_of([dq, layer], [*constants, constant("b", np.full(6, 1e30))]))
    before = ir.to_proto(model).SerializeToString()
    fit_biases(model.graph)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("channels", [[3], [0, 1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("kind", ["linear", "conv", "norm", "transposed"])
def test_a_bias_beside_tiny_weights_is_kept(kind: str, channels: list[int], factor: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = _layers(kind)
    with torch.no_grad():
        layer = next(each for each in model if isinstance(each, nn.Linear | nn.Conv2d | nn.ConvTranspose2d))
        part = layer.weight.transpose(0, 1) if kind == "transposed" else layer.weight
        if kind == "norm":
            model[1].weight[channels], model[1].bias[channels] = factor, 0.7
        else:
            part[channels] *= factor
            layer.bias[channels] = 0.7
    settings = {"bits_activations": 8, "bits_parameters": 8, "per_channel_wts": True}
    quantized = PostTrainLinearQuantizer(**settings, example_inputs=x).quantize(model.eval(), [x]).eval()
    report = export_onnx(quantized, tmp_path / "net.onnx", x)
    with torch.no_grad():
        expected = quantized(x)
    step = expected.abs().max() / 255
    assert report.difference.max <= 2 * step
    coarse = [each for each in report.warnings if "coarser scale" in each]
    assert bool(coarse) == (channels != [3]), report.warnings

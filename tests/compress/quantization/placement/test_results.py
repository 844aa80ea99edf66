"""What a layer gives is rounded where an integer kernel needs it: counted in onnxruntime's own kernels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export.onnx.check import kernel_kinds
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportReport
from compress.quantization.convert import apply, structure_of
from compress.quantization.modules.layers import RESULT
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer


class Compact(nn.Module):
    """As SRVGGNetCompact of Real-ESRGAN: convolutions and PReLU, a shuffle, the interpolated input added."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)]
        for _ in range(2):
            layers += [nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8)]
        self.body = nn.Sequential(*layers, nn.Conv2d(8, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.body(x), 2) + functional.interpolate(x, scale_factor=2.0)


class Residual(nn.Module):
    """Convolutions with BatchNorm, one in front of an addition; a linear layer gives the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu1, self.relu2, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)) + y)
        return self.fc(y.mean((2, 3)))


def trained(model: nn.Module, x: Tensor, **settings: Any) -> nn.Module:
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8, bits_weights=8, per_channel_wts=True, example_inputs=x, **settings
    )
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        for _ in range(2):
            model.train()(x)
    return model.eval()


def calibrated(model: nn.Module, x: Tensor) -> nn.Module:
    quantizer = PostTrainLinearQuantizer(bits_activations=8, bits_parameters=8, per_channel_wts=True, example_inputs=x)
    return quantizer.quantize(model.eval(), [x])


def exported(model: nn.Module, x: Tensor, folder: Path) -> ExportReport:
    return transform_to_onnx(model, folder / "net.onnx", x, True, "qdq", x)


@pytest.mark.parametrize("quantize", [trained, calibrated])
def test_every_convolution_of_compact_runs_in_integers(quantize: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 12, 12)
    model = quantize(Compact(), x)
    report = exported(model, x, tmp_path)
    kernels = kernel_kinds(tmp_path / "net.onnx")
    assert kernels["QLinearConv"] == 4
    assert "Conv" not in kernels
    assert "FusedConv" not in kernels
    assert report.difference.mean < 2e-3 * report.difference.largest
    rounded = [name for name, each in model.named_modules() if getattr(each, RESULT, None) is not None]
    assert rounded == ["body.0", "body.2", "body.4", "body.6"]


@pytest.mark.parametrize("folds", [True, False])
def test_in_front_of_an_addition_the_batch_norm_rounds(folds: bool, tmp_path: Path) -> None:
    """It is folded into the layer in the file. The last layer gives the network's output, which stays float."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 12, 12)
    model = trained(Residual(), x, fold_batchnorm=folds)
    rounded = [name for name, each in model.named_modules() if getattr(each, RESULT, None) is not None]
    assert rounded == ["bn2"]
    report = exported(model, x, tmp_path)
    assert report.kernels["QLinearConv"] == 2
    assert report.difference.mean < 5e-3 * report.difference.largest
    again = apply(Residual(), structure_of(model))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), model(x), atol=0, rtol=0)


def test_after_training_the_batch_norm_rounds_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 12, 12)
    model = calibrated(Residual(), x)
    assert [name for name, each in model.named_modules() if getattr(each, RESULT, None) is not None] == ["bn2"]
    assert exported(model, x, tmp_path).kernels["QLinearConv"] == 2


@pytest.mark.parametrize(("choice", "rounded"), [("none", []), ("all", ["bn2", "fc"])])
def test_the_choice(choice: str, rounded: list[str]) -> None:
    model = trained(Residual(), torch.rand(2, 3, 8, 8), round_results=choice)
    assert [name for name, each in model.named_modules() if getattr(each, RESULT, None) is not None] == rounded

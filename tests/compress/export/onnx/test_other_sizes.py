"""Files whose sizes are free, at other sizes than the example's: what Python computes from a size is a fixed number."""

import math

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.export.onnx.export import export_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer


class Sized(nn.Module):
    """A convolution times what a function makes of the input."""

    def __init__(self, factor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) * self.factor(x)


BAKED = {
    "int": lambda x: int(x.shape[2] * 0.5),
    "sqrt of the area": lambda x: 1 / math.sqrt(x.shape[2] * x.shape[3]),
    "log of the area": lambda x: 1 / math.log2(x.shape[2] * x.shape[3]),
    "sqrt, with a guard": lambda x: math.sqrt(x.shape[2]),
    "coordinates": lambda x: torch.linspace(-1, 1, x.shape[3]),
}
RIGHT = {"power": lambda x: x.shape[2] ** -0.5, "float": lambda x: float(x.shape[2]) / 8, "constant": lambda x: 2}


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def exported(net: nn.Module, folder, **settings) -> ExportReport:
    return export_onnx(net.eval(), folder / "net.onnx", image(2, 3, 12, 12), settings=ExportSettings(**settings))


def run(report: ExportReport, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(report.file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAKED)
def test_a_number_baked_from_the_size_fixes_it_with_a_warning(tmp_path, kind) -> None:
    net = Sized(BAKED[kind])
    report = exported(net, tmp_path)
    ((batch, *shape),) = report.dynamic.values()
    assert isinstance(batch, str)
    assert shape == [3, 12, 12]
    assert any("right at (2, 3, 12, 12) only: at (4, 3, 9, 6) it " in each for each in report.warnings)
    assert any("h ** 0.5" in each for each in report.warnings)
    x = image(5, 3, 12, 12)
    torch.testing.assert_close(run(report, x), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int", "sqrt, with a guard"])
def test_of_integers_too(tmp_path, kind) -> None:
    images = [image(2, 3, 12, 12)]
    net = PostTrainLinearQuantizer(round_results="all").quantize(Sized(BAKED[kind]).eval(), images)
    report = exported(net, tmp_path)
    assert report.mode == "qdq"
    assert next(iter(report.dynamic.values()))[1:] == [3, 12, 12]
    assert any("it differs from the network by" in each for each in report.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_computed_in_the_file_stays_free(tmp_path, kind) -> None:
    net = Sized(RIGHT[kind])
    report = exported(net, tmp_path)
    assert report.dynamic == {"x": ["batch", 3, "height", "width"]}
    assert report.warnings == []
    x = image(1, 3, 24, 20)
    torch.testing.assert_close(run(report, x), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_axes_asked_to_be_free_are_refused_instead(tmp_path) -> None:
    with pytest.raises(UserError, match=r"right at \(2, 3, 12, 12\) only.*h \*\* 0.5.*nothing was written"):
        exported(Sized(BAKED["int"]), tmp_path, free_axes=(2,))
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.slow
def test_a_batch_size_that_is_baked_is_warned_about(tmp_path) -> None:
    report = exported(Sized(lambda x: int(x.shape[0] * 2.5)), tmp_path, fixed_size=True)
    (warning,) = report.warnings
    assert "at (4, 3, 12, 12) it differs" in warning
    assert "batches of 2" in warning


@pytest.mark.slow
def test_a_network_of_some_sizes_is_tried_at_those(tmp_path) -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] < 12:
                raise ValueError("too small")
            return nn.functional.pad(x, (1, 1, 1, 1)) * int(x.shape[3] * 0.5)

    report = exported(Halves(), tmp_path)
    assert any("(4, 3, 24, 24)" in each for each in report.warnings)

"""What is exported is what was trained: float, clipped and integer files against PyTorch, and the refusals."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks import resnet20
from compress.errors import UserError
from compress.export.onnx.check import Difference
from compress.export.onnx.export import METADATA, fusion_warnings, transform_to_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.session import flags_have_vnni, open_session, run_session
from compress.quantization.modules.layers import quantized
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from models.C2SRCNN.model import Net
from tests.compress.export.exported_nets import (
    DorefaWeight,
    Generator,
    MinMaxActivation,
    MinMaxWeight,
    RoundedAdd,
    UNet,
    Upscaler,
    lively,
    quantize,
)

DUMMY = torch.empty(1, 3, 16, 16)


def images(count: int = 2) -> list[Tensor | tuple[Tensor, ...]]:
    """Images of several sizes, none of them the dummy's."""
    source = torch.Generator().manual_seed(1)
    sizes = [(1, 3, 24, 32), (3, 3, 32, 16), (2, 3, 40, 40)]
    return [torch.rand(size, generator=source) for size in sizes[:count]]


def initializers(file: str | Path) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(str(file)).graph.initializer}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def upscaler() -> nn.Module:
    torch.manual_seed(0)
    return quantize(Upscaler(16).eval(), torch.rand(2, 3, 24, 24), outputs=("first",))


@pytest.fixture(scope="module")
def integers(upscaler: nn.Module, folder: Path) -> ExportReport:
    before = {name: value.clone() for name, value in upscaler.state_dict().items()}
    settings = ExportSettings(description={"run": "a"})
    report = transform_to_onnx(upscaler, folder / "q.onnx", DUMMY, True, "qdq", images(), settings)
    assert all(torch.equal(value, before[name]) for name, value in upscaler.state_dict().items())
    return report


@pytest.fixture(scope="module")
def clipped(upscaler: nn.Module, folder: Path) -> ExportReport:
    return transform_to_onnx(upscaler, folder / "c.onnx", DUMMY, True, check_inputs=images())


def test_a_float_network_of_any_size(folder: Path) -> None:
    torch.manual_seed(0)
    model = Net(2, 4, 4).train()
    report = transform_to_onnx(model, folder / "f.onnx", DUMMY, False, check_inputs=images())
    assert model.training
    assert report.dynamic == {"low": ["batch", 3, "height", "width"]}
    assert report.mode == "float"
    assert report.difference.max < 1e-6
    assert report.difference.largest > 0.5
    assert report.difference.inputs == 2
    assert report.real_inputs
    assert report.nodes["Conv"] == 9
    assert json.loads(json.dumps(report.to_dict()))["difference"]["max"] == report.difference.max
    found = run_session(open_session(report.file), (torch.rand(5, 3, 7, 9),))[0]
    assert found.shape == (5, 3, 14, 18)
    assert b"/work" not in Path(report.file).read_bytes()  # the exporter notes stack traces with the paths of files


def test_a_fixed_size_leaves_only_the_batch_free(tmp_path: Path) -> None:
    settings = ExportSettings(fixed_size=True)
    report = transform_to_onnx(nn.Conv2d(3, 2, 3).eval(), tmp_path / "net.onnx", DUMMY, False, settings=settings)
    (given,) = onnx.load(report.file).graph.input
    sizes = [each.dim_param or each.dim_value for each in given.type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, 16, 16]


def test_integers_say_what_the_network_computes(integers: ExportReport) -> None:
    assert integers.unfused is not None
    step = 0.01  # larger than any activation's step here; one that rounds the other way is all that may happen
    assert integers.unfused.mean < 1e-5
    assert integers.unfused.max < step
    assert integers.difference.mean < 1e-4
    assert integers.difference.max < step


def test_integers_are_stored_as_int8_and_equal_the_weights(integers: ExportReport, upscaler: Any) -> None:
    stored = initializers(integers.file)
    kinds = {name: array for name, array in stored.items() if name.endswith("_int8")}
    assert len(kinds) == 3
    assert all(array.dtype == np.int8 for array in kinds.values())
    second = next(array for array in kinds.values() if array.shape == (64, 16, 3, 3))
    scale = next(a for n, a in stored.items() if n.endswith("_scale") and a.shape == (64,))
    wanted = upscaler.second.quantized_weight().detach().numpy()
    np.testing.assert_allclose(second * scale[:, None, None, None], wanted, rtol=1e-6)
    assert all(note.stored == "int8" and note.error == 0 for note in integers.weights)
    assert [note.name for note in integers.weights] == ["first.layer", "second", "last"]


def test_integer_kernels_run(integers: ExportReport) -> None:
    assert integers.kernels["QLinearConv"] == 2
    assert "ConvTranspose" not in integers.nodes  # onnxruntime has no integer kernel for it
    assert integers.nodes["DepthToSpace"] == 2
    assert any("quantized layers in float" in each and ": last;" in each for each in integers.warnings)


def test_the_description_is_in_the_file(integers: ExportReport) -> None:
    properties = {each.key: each.value for each in onnx.load(integers.file).metadata_props}
    assert json.loads(properties[METADATA]) == {"run": "a", "mode": "qdq"}


def test_clips_are_the_clip_only_network(clipped: ExportReport, integers: ExportReport) -> None:
    assert clipped.difference.max < 1e-6
    assert clipped.compared_with == "the clip-only network"
    assert clipped.to_quantized is not None
    assert clipped.to_quantized.max > 1e-4
    assert clipped.nodes["Clip"] == 4
    assert "QuantizeLinear" not in clipped.nodes
    assert all(array.dtype != np.int8 for array in initializers(clipped.file).values())
    assert "distance to the quantized network" in str(clipped)
    assert clipped.bytes > 2 * integers.bytes


def test_batch_norm_is_folded_and_narrow_grids_are_exact(folder: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    model = quantize(lively(net), images()[0], DorefaWeight, bits=3, act_bits=4)  # type: ignore[arg-type]
    report = transform_to_onnx(model, folder / "n.onnx", DUMMY, True, "qdq", images())
    assert "BatchNormalization" not in report.nodes
    assert report.kernels["QLinearConv"] == 2
    assert report.nodes["Clip"] == 2
    assert report.unfused is not None
    assert report.unfused.mean < 1e-4
    assert not [each for each in report.warnings if "int8 form" in each]
    stored = [array for name, array in initializers(report.file).items() if name.endswith("_int8")]
    assert all(set(np.unique(np.abs(array))) <= {8, 24, 40, 56} for array in stored)


def test_narrow_weights_have_fine_biases_and_a_warning_says_where_they_have_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, layer = MinMaxActivation(1), nn.Conv2d(3, 8, 1)
    nn.init.uniform_(layer.bias, -0.3, 0.3)  # type: ignore[arg-type]
    pieces = {"weight_quantizer": DorefaWeight(2), "input_quantizer": read}
    model = RoundedAdd(quantized(layer, pieces)).eval().requires_grad_(False)
    model(images()[0])
    unit = float(read.grid().scale) / 3  # type: ignore[union-attr]  # input scale x weight scale, as trained
    step = 1.01 * float(model.output_quantizer.grid().scale)  # type: ignore[union-attr]
    fine = transform_to_onnx(model, folder / "fine.onnx", DUMMY, True, "qdq", images())
    assert fine.kernels["QLinearConv"] == 1
    assert fine.unfused is not None
    assert fine.unfused.max <= step
    assert fine.difference.max <= unit / 16 / 2 + step  # 1 and 3 are stored as 16 and 48
    assert not [each for each in fine.warnings if "fusions make" in each]
    monkeypatch.setattr("compress.export.onnx.int8_weights._finer", lambda weight: weight)
    coarse = transform_to_onnx(model, folder / "coarse.onnx", DUMMY, True, "qdq", images())
    assert coarse.difference.mean > 4 * fine.difference.mean
    assert coarse.kernels == fine.kernels
    assert [each for each in coarse.warnings if "fusions make" in each]


def test_fusions_are_warned_of_only_where_they_are_what_is_far_off() -> None:
    exact, far = Difference(1e-5, 1e-6, 10.0, 1), Difference(1.0, 0.2, 10.0, 1)
    assert fusion_warnings(far, None) == []
    assert fusion_warnings(far, replace(exact, mean=0.03)) == []
    assert fusion_warnings(replace(far, mean=0.05), exact) == []
    (warning,) = fusion_warnings(far, exact)
    assert "off by 1e-06 in the mean, but onnxruntime's fusions make 0.2 of it (2 % of the largest value)" in warning
    assert "8 bits where activations have fewer, narrower ranges" in warning  # a network of 8 bits needs another way
    large = Difference(0.0, 0.0, 1e4, 1)
    (warning,) = fusion_warnings(Difference(1.0, 0.1, 1e4, 1, (large, far)), replace(exact, outputs=(large, exact)))
    assert "output 1 of the file as it is written" in warning
    assert "make 0.2 of it (2 % of the largest value)" in warning


@pytest.mark.parametrize("mode", ["clip", "qdq"])
def test_a_relu_whose_range_nobody_has_seen_yet_is_still_a_relu(folder: Path, mode: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    quantizer = QuantAwareTrainRangeLinearQuantizer(8, 8, example_inputs=torch.zeros(1, 3, 16, 16))
    quantizer.prepare(net, None)
    quantizer.convert(net)
    report = transform_to_onnx(net, folder / f"{mode}.onnx", DUMMY, True, mode, images())
    found = report.unfused if mode == "qdq" else report.to_quantized
    assert found is not None
    assert found.max < 1e-5


def test_eight_bit_dorefa_is_named_with_its_error(folder: Path) -> None:
    model = quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), images()[0], DorefaWeight)  # type: ignore[arg-type]
    report = transform_to_onnx(model, folder / "d.onnx", DUMMY, True, "qdq", images())
    (note,) = report.weights
    assert note.stored == "int8"
    assert 0 < note.error <= 0.5 / 127 + 1e-6
    assert any(each.startswith("0: its 8-bit values are not multiples") for each in report.warnings)


@pytest.mark.parametrize(
    ("flag", "mode", "wrapped", "message"),
    [
        (True, "clip", False, "quantize_flag=True, but Sequential holds no quantizer"),
        (False, "clip", True, "quantize_flag=False, but Sequential is quantized"),
        (True, "int8", True, "given 'int8'; mode should be one of clip, qdq"),
    ],
)
def test_contradictions_are_refused(here: Path, flag: bool, mode: Any, wrapped: bool, message: str) -> None:
    model: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3))
    if wrapped:
        quantize(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match=message):
        transform_to_onnx(model, "x.onnx", DUMMY, flag, mode)
    assert not list(here.iterdir())


class _Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_what_cannot_be_exported_is_named(here: Path) -> None:
    with pytest.raises(UserError, match=r"_Undecided cannot be exported to ONNX: .*nothing was written"):
        transform_to_onnx(_Undecided(), "x.onnx", DUMMY, False)
    assert not list(here.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(here: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=rf"transform_to_onnx requires {missing}, .*: pip install {missing}$"):
        transform_to_onnx(nn.Conv2d(3, 4, 3), "x.onnx", DUMMY, False)


def test_empty_check_inputs_are_refused(here: Path) -> None:
    with pytest.raises(UserError, match="check_inputs is empty"):
        transform_to_onnx(nn.Conv2d(3, 4, 1), "x.onnx", DUMMY, False, check_inputs=[])
    assert not list(here.iterdir())


def test_vnni_is_read_from_the_flags() -> None:
    assert flags_have_vnni("processor : 0\nflags\t: fpu avx2 avx512_vnni\n") is True
    assert flags_have_vnni("processor : 0\nflags\t: fpu avx2\n") is False
    assert flags_have_vnni("Features\t: fp asimd asimddp\n") is True
    assert flags_have_vnni("nothing") is None


def _mobilenet() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=10)


NETWORKS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "C2SRCNN": (lambda: Net(3, 16, 16), ()),
    "ResNet-20": (resnet20, ()),
    "MobileNetV2": (_mobilenet, ()),
    "U-Net": (UNet, ("up1", "up2")),
    "DeblurGAN": (Generator, ("conv1", "conv2", "head.1", "down.0", "up.0")),
    "Upscaler": (Upscaler, ("first",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_float(folder: Path, name: str) -> None:
    model = lively(NETWORKS[name][0]())
    report = transform_to_onnx(model, folder / "all.onnx", torch.empty(1, 3, 32, 32), False, check_inputs=images(3))
    assert report.difference.max < 3e-5 * max(1, report.difference.largest)
    assert all(shape[0] == "batch" for shape in report.dynamic.values())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_integers(folder: Path, name: str, bits: int) -> None:
    make, outputs = NETWORKS[name]
    model = quantize(lively(make()), torch.rand(4, 3, 32, 32), MinMaxWeight, bits, bits, outputs)
    report = transform_to_onnx(model, folder / "all.onnx", torch.empty(1, 3, 32, 32), True, "qdq", images(3))
    assert report.unfused is not None
    # A value on a rounding boundary may go to the other side, and later layers see a whole step; few do.
    assert report.unfused.mean < 0.01 * report.difference.largest
    assert "BatchNormalization" not in report.nodes
    assert "ConvTranspose" not in report.nodes
    clip = transform_to_onnx(model, folder / "all_clip.onnx", torch.empty(1, 3, 32, 32), True, check_inputs=images(3))
    assert clip.difference.max < 3e-5 * max(1, clip.difference.largest)


@pytest.mark.slow
def test_clips_in_front_or_behind_are_the_same(folder: Path) -> None:
    model = quantize(Net(2, 8, 8).eval(), torch.rand(2, 3, 16, 16), act_bits=4)
    files = {}
    for first in (False, True):
        settings = replace(ExportSettings(), clip_first=first)
        report = transform_to_onnx(model, folder / f"{first}.onnx", DUMMY, True, "qdq", images(), settings)
        files[first] = open_session(report.file, fused=False)
    x = (torch.rand(1, 3, 16, 16),)
    torch.testing.assert_close(run_session(files[False], x), run_session(files[True], x), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_reduced_range_cannot_saturate_and_its_price_is_told(folder: Path) -> None:
    model = quantize(Net(2, 16, 16).eval(), torch.rand(2, 3, 16, 16))
    settings = ExportSettings(reduce_range=True)
    report = transform_to_onnx(model, folder / "r.onnx", DUMMY, True, "qdq", images(), settings)
    stored = [array for name, array in initializers(report.file).items() if name.endswith("_int8")]
    assert max(int(np.abs(array).max()) for array in stored) == 63
    assert all("reduce_range leaves 7 bits" in note.reason for note in report.weights)
    x = (torch.rand(1, 3, 16, 16),)
    fast, exact = (run_session(open_session(report.file, exact=each), x)[0] for each in (False, True))
    torch.testing.assert_close(fast, exact, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_the_file_is_four_times_smaller(folder: Path) -> None:
    model = Net(2, 64, 64)
    dense = transform_to_onnx(model, folder / "big.onnx", DUMMY, False, check_inputs=images())
    quantize(model.eval(), torch.rand(1, 3, 16, 16))
    small = transform_to_onnx(model, folder / "small.onnx", DUMMY, True, "qdq", images())
    assert dense.bytes / small.bytes > 3.5


@pytest.mark.parametrize("inputs", [torch.float32, torch.float64])
def test_float64_is_refused_with_what_to_do(inputs: torch.dtype, tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Conv2d(1, 2, 1)).double(), torch.rand(1, 1, 4, 4, dtype=inputs)
    with pytest.raises(UserError, match=r"0\.weight is float64, and files hold float32; give model\.float\(\)"):
        transform_to_onnx(net, tmp_path / "a.onnx", x, False, check_inputs=x)
    with pytest.raises(UserError, match=r"its inputs are float64, and files hold float32"):
        transform_to_onnx(net.float(), tmp_path / "a.onnx", x.double(), False, check_inputs=x.double())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("asked", [11, 17])
def test_an_operator_set_that_the_file_does_not_have_is_said(asked: int, tmp_path: Path) -> None:
    """torch's exporter converts down to 16 or so, and leaves 18 where it cannot."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()).eval()
    report = transform_to_onnx(model, tmp_path / "net.onnx", DUMMY, False, settings=ExportSettings(opset=asked))
    said = [each for each in report.warnings if each.startswith(f"opset {asked} was asked for")]
    assert bool(said) == (report.opset != asked), report.warnings
    assert report.opset == onnx.load(tmp_path / "net.onnx").opset_import[0].version

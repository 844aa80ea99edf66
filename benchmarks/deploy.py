"""What a deployed file brings: fewer channels and int8 against the dense float file, in onnxruntime.

    python benchmarks/deploy.py [--rounds 15] [--threads 1] [--only TEXT] [--reduce-range]

For each network five files take turns in one process: dense float, half the channels in float, dense int8, half the
channels in int8 as onnxruntime's own `quantize_static` makes it of the float file, and as we do. Printed are size, the
median time with quartiles, and the ratio to the dense float file in the same round. Weights are random and calibration
is one batch of noise: time and size do not depend on them, quality is not looked at. The network's output is rounded
too (`round_results: all`), because `quantize_static` does so: a last linear layer that stays float is a float kernel,
which reads four times the bytes. With it, onnxruntime runs the same kernels for both files.

uint8 x int8 kernels are quick on CPUs with VNNI; whether this one has it is printed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from tabulate import tabulate
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress.export.latency import measure_latency, onnx_way
from compress.export.onnx.check import kernel_kinds
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.session import has_vnni
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from models.C2SRCNN.model import Net


def classifier(name: str) -> Callable[[float], nn.Module]:
    """A torchvision classifier by the share of its channels that are left."""

    def make(share: float) -> nn.Module:
        import torchvision

        if name == "mobilenet_v2":
            model: nn.Module = torchvision.models.mobilenet_v2(width_mult=share)
        else:
            model = torchvision.models.get_model(name)
            if share < 1:
                halve(model, share)
        return model

    return make


def halve(model: nn.Module, share: float) -> None:
    """Makes every layer of a residual network as narrow as thinning would, with new random weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                inside = child.in_channels if child.in_channels == 3 else int(child.in_channels * share)
                made: nn.Module = nn.Conv2d(
                    inside, int(child.out_channels * share), child.kernel_size, child.stride, child.padding, bias=False
                )
            elif isinstance(child, nn.BatchNorm2d):
                made = nn.BatchNorm2d(int(child.num_features * share))
            elif isinstance(child, nn.Linear):
                made = nn.Linear(int(child.in_features * share), child.out_features)
            else:
                continue
            setattr(parent, name, made)


HALF = "half the channels"
NETWORKS: dict[str, tuple[Callable[[float], nn.Module], tuple[int, ...]]] = {
    "SR, 64 channels": (lambda share: Net(2, int(64 * share), int(64 * share)), (1, 3, 128, 128)),
    "ResNet-18": (classifier("resnet18"), (1, 3, 224, 224)),
    "ResNet-50": (classifier("resnet50"), (1, 3, 224, 224)),
    "MobileNetV2": (classifier("mobilenet_v2"), (1, 3, 224, 224)),
}


def quantized(model: nn.Module, example: Tensor) -> nn.Module:
    """8-bit weights per channel and 8-bit activations, calibrated on the example."""
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8,
        bits_weights=8,
        mode={"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC_RESTRICTED"},
        per_channel_wts=True,
        round_results="all",
        example_inputs=example,
    )
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        model.train()(torch.cat((example, example)))
    return model.eval()


def export(
    make: Callable[[float], nn.Module], size: tuple[int, ...], folder: Path, settings: ExportSettings
) -> dict[str, ExportReport]:
    """The four files of a network, with their reports."""
    example, reports = torch.rand(size), {}
    for share, label in ((1.0, "dense"), (0.5, HALF)):
        model = make(share).eval()
        file = folder / f"{label}.onnx"
        reports[f"{label}, float"] = transform_to_onnx(model, file, example, False, check_inputs=example)
        integers = folder / f"{label}_int8.onnx"
        whole = quantized(model, example)
        reports[f"{label}, int8"] = transform_to_onnx(whole, integers, example, True, "qdq", example, settings)
    return reports


class _Once:
    """Calibration data of onnxruntime: one batch."""

    def __init__(self, file: Path, example: Tensor) -> None:
        self._batches = [{onnx.load(file, load_external_data=False).graph.input[0].name: example.numpy()}]

    def get_next(self) -> dict[str, Any] | None:
        """The batch, then None."""
        return self._batches.pop() if self._batches else None


def by_onnxruntime(file: Path, example: Tensor, target: Path) -> Path:
    """The same float file quantized by onnxruntime itself: QDQ, weights per channel, uint8 x int8 as ours."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Once, CalibrationDataReader):  # its base is checked
        pass

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(target), Reader(prepared, example), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return target


def rows_of(name: str, options: argparse.Namespace) -> list[list[object]]:
    """Measures one network."""
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    settings = ExportSettings(reduce_range=options.reduce_range)
    with tempfile.TemporaryDirectory() as folder:
        reports = export(make, size, Path(folder), settings)
        inputs = (torch.rand(size),)
        half = Path(reports[f"{HALF}, float"].file)
        files = {label: Path(report.file) for label, report in reports.items()}
        ours = files.pop(f"{HALF}, int8")
        theirs = by_onnxruntime(half, torch.rand(size), Path(folder) / "theirs.onnx")
        files[f"{HALF}, int8 by quantize_static"] = theirs
        files[f"{HALF}, int8"] = ours
        ways = {label: onnx_way(file, inputs, options.threads) for label, file in files.items()}
        times = measure_latency(ways, options.rounds)
        sizes = {label: file.stat().st_size for label, file in files.items()}
        kernels = {label: kernel_kinds(file) for label, file in files.items()}
    return [
        [
            name,
            label,
            f"{sizes[label] / 1e6:.2f}",
            f"{each.milliseconds:.2f} [{each.low:.2f}, {each.high:.2f}]",
            f"{each.ratio:.3f} [{each.ratio_low:.3f}, {each.ratio_high:.3f}]",
            f"{1 / each.ratio:.2f}",
            sum(kernels[label].get(kind, 0) for kind in ("QLinearConv", "QGemm")),
        ]
        for label, each in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose names hold this text")
    parser.add_argument("--reduce-range", action="store_true", help="7-bit weights")
    options = parser.parse_args()
    print(f"VNNI: {has_vnni()}, {options.threads} threads, {options.rounds} rounds")
    head = ["network", "file", "MB", "ms [quartiles]", "ratio [quartiles]", "times faster", "integer layers"]
    for name in NETWORKS:
        if options.only.lower() in name.lower():
            print(tabulate(rows_of(name, options), head), flush=True)


if __name__ == "__main__":
    main()

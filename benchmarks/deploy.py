"""What a deployed file brings: fewer channels and int8 against the dense float file, in onnxruntime.

    python benchmarks/deploy.py [--rounds 15] [--threads 1] [--only TEXT] [--reduce-range]

Half the channels go by the library's own thinning. For each network five files take turns in one process: dense float,
half the channels in float, dense int8, half the channels in int8 as onnxruntime's own `quantize_static` makes it of the
float file, and as we do. Printed are size, the median time with quartiles, and the ratio to the dense float file in the
same round; of ours also that to `quantize_static`'s. With one thread, times are processor time, so that other processes
count little. Weights are random and calibration is one batch of noise: time and size do not depend on them, quality is
not looked at. The network's output is rounded too (`round_results: all`), because `quantize_static` does so: a last
linear layer that stays float is a float kernel, which reads four times the bytes.

uint8 x int8 kernels are quick on CPUs with VNNI; whether this one has it is printed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from tabulate import tabulate
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress import prunable_graph, remove_units
from compress.export.latency import Turn, Way, onnx_way, take_turns
from compress.export.onnx.check import kernel_kinds
from compress.export.onnx.export import transform_to_onnx
from compress.export.onnx.export_report import ExportReport, ExportSettings
from compress.export.onnx.session import has_vnni
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer
from models.C2SRCNN.model import Net


def classifier(name: str) -> Callable[[], nn.Module]:
    """A torchvision classifier with random weights."""

    def make() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.get_model(name)
        return model

    return make


HALF = "half the channels"
OURS, THEIRS = f"{HALF}, int8", f"{HALF}, int8 by quantize_static"
STEP = 8  # channels are left in multiples of it
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "SR, 64 channels": (lambda: Net(2, 64, 64), (1, 3, 128, 128)),
    "ResNet-18": (classifier("resnet18"), (1, 3, 224, 224)),
    "ResNet-50": (classifier("resnet50"), (1, 3, 224, 224)),
    "MobileNetV2": (classifier("mobilenet_v2"), (1, 3, 224, 224)),
}


def halved(model: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """The network thinned, with proof: half of every group of coupled channels, rounded up to a multiple of `STEP`."""
    example, removed = torch.rand(size), {}
    graph = prunable_graph(model, example)
    for group in graph.groups(prunable_only=True):
        left = min(group.units, -(-group.units // (2 * STEP)) * STEP)
        removed[group.name] = list(range(min(group.units - left, group.prunable)))
    remove_units(model, graph, removed, example)
    return model


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
    make: Callable[[], nn.Module], size: tuple[int, ...], folder: Path, settings: ExportSettings
) -> dict[str, ExportReport]:
    """The four files of a network, with their reports."""
    example, reports = torch.rand(size), {}
    for label in ("dense", HALF):
        model = make().eval() if label == "dense" else halved(make().eval(), size)
        file = folder / f"{label}.onnx"
        reports[f"{label}, float"] = transform_to_onnx(model, file, example, False, check_inputs=example)
        integers = folder / f"{label}_int8.onnx"
        whole = quantized(model, example)
        reports[f"{label}, int8"] = transform_to_onnx(whole, integers, example, True, "qdq", example, settings)
    return reports


class Busy(Turn):
    """A way timed by this process's processor time: what other processes do meanwhile is not in it. For one thread."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def seconds(self, calls: int) -> float:
        """Mean processor time of so many calls."""
        started = time.process_time()
        for _ in range(calls):
            self._way()
        return (time.process_time() - started) / calls


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
        ours = files.pop(OURS)
        theirs = by_onnxruntime(half, torch.rand(size), Path(folder) / "theirs.onnx")
        files[THEIRS] = theirs
        files[OURS] = ours
        ways = {label: onnx_way(file, inputs, options.threads) for label, file in files.items()}
        if options.threads == 1:
            ways = {label: Busy(way) for label, way in ways.items()}
        turns = take_turns(ways, options.rounds)
        times = {label: turns.latency(label, next(iter(ways))) for label in ways}
        against = turns.latency(OURS, THEIRS)
        sizes = {label: file.stat().st_size for label, file in files.items()}
        kernels = {label: kernel_kinds(file) for label, file in files.items()}
    same = f"{against.ratio:.3f} [{against.ratio_low:.3f}, {against.ratio_high:.3f}]"
    return [
        [
            name,
            label,
            f"{sizes[label] / 1e6:.2f}",
            f"{each.milliseconds:.2f} [{each.low:.2f}, {each.high:.2f}]",
            f"{each.ratio:.3f} [{each.ratio_low:.3f}, {each.ratio_high:.3f}]",
            f"{1 / each.ratio:.2f}",
            sum(kernels[label].get(kind, 0) for kind in ("QLinearConv", "QGemm")),
            same if label == OURS else "",
        ]
        for label, each in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="networks whose names hold this text")
    parser.add_argument("--reduce-range", action="store_true", help="7-bit weights")
    options = parser.parse_args()
    print(f"VNNI: {has_vnni()}, {options.threads} threads, {options.rounds} rounds")
    head = ["network", "file", "MB", "ms [quartiles]", "ratio [quartiles]", "times faster", "integer layers",
            "of quantize_static's"]  # fmt: skip
    for name in NETWORKS:
        if options.only.lower() in name.lower():
            print(tabulate(rows_of(name, options), head), flush=True)


if __name__ == "__main__":
    main()

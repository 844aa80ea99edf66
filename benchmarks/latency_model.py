"""How well a latency model predicts: random thinnings of three networks, predicted and measured in onnxruntime.

    python -m benchmarks.latency_model [--networks c2srcnn,resnet20,mobilenet_v2] [--thinnings 30] [--int8]

Measures a latency model of each network, then exports random thinnings that it has not seen and times them in turns.
Prints the median and largest error of the predicted ratio to the dense file's time, and the rank correlation.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import resnet20
from compress.analysis.latency_model.build import measure_latency_model
from compress.analysis.latency_model.plan import drawn
from compress.analysis.latency_model.whole import write_file
from compress.export.latency import measure_latency, onnx_way
from compress.export.machine_load import OthersLoad, load_text
from compress.thinning.trials.trial import prunable_graph
from models.C2SRCNN.model import Net

SEED = 1  # the model itself draws with 0


def mobilenet_v2() -> nn.Module:
    """torchvision's, untrained: times do not depend on weights."""
    from torchvision.models import mobilenet_v2

    return mobilenet_v2()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "c2srcnn": (lambda: Net(2), (1, 3, 90, 120)),
    "resnet20": (resnet20, (1, 3, 32, 32)),
    "mobilenet_v2": (mobilenet_v2, (1, 3, 96, 96)),
}


def judge(name: str, thinnings: int, threads: int, int8: bool) -> str:
    """One network's line; of int8 files where that is asked for, over the dense float file's time all the same."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, inputs = make().eval(), (torch.rand(shape),)
    graph = prunable_graph(network, inputs)
    model = measure_latency_model(network, inputs, threads=threads, int8=int8, graph=graph)
    draw = np.random.default_rng(SEED)
    removals: list[dict[str, list[int]]] = [{}, *(drawn(graph, draw) for _ in range(thinnings))]
    ways: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, OthersLoad() as others:
        for number, removed in enumerate(removals):
            file = Path(folder) / f"{number}.onnx"
            write_file(network, graph, inputs, removed, "int8" if int8 and number else "float", file)
            ways[str(number)] = onnx_way(file, inputs, threads)
        measured = [each.ratio for each in measure_latency(ways, rounds=21).values()][1:]
    predicted = [model.ratio(graph, removed, int8) for removed in removals[1:]]
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    size, rank = "x".join(map(str, shape)), rank_correlation(predicted, measured)
    what = f"{name}, {'int8' if int8 else 'float'}"
    return (
        f"{what}: {thinnings} random thinnings, input {size}: median error {statistics.median(errors):.1%}, largest "
        f"{max(errors):.1%}, rank correlation {rank:.3f}, measured ratios {min(measured):.2f} to {max(measured):.2f}; "
        f"{load_text(others.cores)}"
    )


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(each)) for each in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def main() -> None:
    """Prints a line a network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--thinnings", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true", help="of int8 files, by calibration alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.networks.split(","):
        print(judge(name, given.thinnings, given.threads, given.int8), flush=True)


if __name__ == "__main__":
    main()

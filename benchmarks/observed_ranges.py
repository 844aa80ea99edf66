"""What it changes to observe the ranges of activations in some minibatches only (`observe_every`).

    python benchmarks/observed_ranges.py [--steps 400] [--every 8] [--samples 64]

The default network of super-resolution, trained for 8 bits on random crops of the embedded photographs, from the same
seed with every minibatch observed and with every so manyth: printed are the largest and the median relative difference
of the ranges' ends, beside those of another seed of the data's order, and both losses over the last quarter.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.step_overhead import Scheduled, one
from compress.quantization.range_linear import RangeActivation
from data.loaders import sr_training_loaders
from models.C2SRCNN.model import Net
from options.Normal_options.train_options import TrainOptions


def trained(every: int, seed: int, options: argparse.Namespace) -> tuple[list[float], float]:
    """The ends of all ranges and the mean loss of the last quarter."""
    config = TrainOptions().parse([f"--samples={options.samples}", "--device=cpu", "--workers=0", f"--seed={seed}"])
    loader = sr_training_loaders(config)[0]
    torch.manual_seed(0)
    own = {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_activations": 8, "bits_weights": 8}
    schedule = one("quantizer", {**own, "ema_decay": 0.99, "observe_every": every})
    torch.manual_seed(seed)
    losses: list[float] = []

    def loss(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        found = functional.l1_loss(output, wanted)
        losses.append(float(found))
        return found

    first = next(iter(loader))
    loop = Scheduled(Net(2), tuple(first[:2]), loss, schedule, first[0])
    while len(losses) < options.steps:
        for batch in loader:
            loop.batch = tuple(batch[:2])
            loop()
    pieces = [each for each in loop.model.modules() if isinstance(each, RangeActivation)]
    ends = [end for piece in pieces for end in (piece.ranges[:2] / piece.ranges[2]).tolist() if end]
    last = losses[: options.steps][-options.steps // 4 :]
    return ends, statistics.mean(last)


def main() -> None:
    """Prints the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64, help="crops of an epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    each, own_loss = trained(1, 0, options)
    for what, every, seed in ((f"every {options.every}th", options.every, 0), ("another order", 1, 1)):
        ends, loss = trained(every, seed, options)
        apart = [abs(a - b) / abs(b) for a, b in zip(ends, each, strict=True)]
        print(
            f"{what:14s} ends of ranges apart: median {statistics.median(apart):.2%}, largest {max(apart):.2%}; "
            f"loss {loss:.5f}, with each observed {own_loss:.5f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How much faster is C2SRCNN's tail (3x3 convolution + PixelShuffle) than FSRCNN's transposed convolution?

    python benchmarks/sr_tail.py [--threads 2] [--rounds 12]

Times one training step (forward, L1, backward, Adam) and one forward pass of three networks that
differ in `last_part` only. They take turns in one process, so that other load hits all of them; printed are the
ratios to the PixelShuffle network within each round: minimum, median, maximum.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.C2SRCNN.model import Net

SCALE, BATCH, LOW = 2, 16, 48


class TransposedTail(Net):
    """C2SRCNN with FSRCNN's tail; the bicubic part is added at high resolution."""

    def __init__(self, kernel: int) -> None:
        super().__init__(SCALE)
        features = self.arguments["features"]
        padding = (kernel - SCALE + 1) // 2
        self.last_part = nn.ConvTranspose2d(
            features, 3, kernel, SCALE, padding, output_padding=2 * padding + SCALE - kernel
        )

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(low, (2, 2, 2, 2), mode="replicate")
        smooth = nn.functional.conv2d(padded, self.bicubic, groups=3)
        detail = self.last_part(self.mid_part(self.first_part(low - 0.5)))
        return detail + nn.functional.pixel_shuffle(smooth, SCALE)


def training_step(net: nn.Module) -> Callable[[], None]:
    """A function that does one training step on a fixed random batch."""
    optimizer = torch.optim.Adam(net.parameters())
    low, high = torch.rand(BATCH, 3, LOW, LOW), torch.rand(BATCH, 3, LOW * SCALE, LOW * SCALE)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.l1_loss(net(low), high).backward()
        optimizer.step()

    return step


def forward_pass(net: nn.Module) -> Callable[[], None]:
    """A function that up-samples one 256 x 256 image."""
    image = torch.rand(1, 3, 256, 256)

    def forward() -> None:
        with torch.inference_mode():
            net(image)

    return forward


def compare(title: str, works: dict[str, Callable[[], None]], rounds: int) -> None:
    """Runs the works in turn; prints milliseconds and ratios to the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(3):
                work()
            seconds[name].append((time.perf_counter() - start) / 3)
    reference = next(iter(works))
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times[1:], seconds[reference][1:], strict=True)]
        spread = f"{min(ratios):.2f} {statistics.median(ratios):.2f} {max(ratios):.2f}"
        print(f"{title:14s} {name:24s} best {1e3 * min(times):6.1f} ms   ratio min/median/max {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    nets = {"conv 3x3 + PixelShuffle": Net(SCALE), "transposed 9x9": TransposedTail(9)}
    nets["transposed 4x4"] = TransposedTail(4)
    compare("training step", {name: training_step(net) for name, net in nets.items()}, options.rounds)
    compare("forward", {name: forward_pass(net.eval()) for name, net in nets.items()}, options.rounds)


if __name__ == "__main__":
    main()

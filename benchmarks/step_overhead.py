"""What a schedule costs per training step: the bare loop against the loop with the AGP schedule active.

    python benchmarks/step_overhead.py [--rounds 15] [--steps 12] [--threads 2]

Both loops run in this process, taking turns in short rounds, so that a machine that slows down slows both. Printed is
the ratio of each pair of neighbouring rounds: minimum, median, maximum. The masks are those of the last AGP epoch, on
every convolution of the network.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import resnet20
from compress.config import dict_config
from compress.scheduler import CompressionScheduler
from models.C2SRCNN.model import Net


class Loop:
    """One network with its optimizer, trained on one fixed batch."""

    def __init__(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], loss: Callable[..., Tensor], scheduled: bool
    ) -> None:
        self.model, self.batch, self.loss = model, batch, loss
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-4)
        self.scheduler = agp(model, self.optimizer) if scheduled else None

    def run(self, steps: int) -> float:
        """Seconds of `steps` training steps, an epoch's begin not included."""
        if self.scheduler is not None:
            self.scheduler.on_epoch_begin(1, self.optimizer)
        started = time.perf_counter()
        for step in range(steps):
            self.step(step, steps)
        return time.perf_counter() - started

    def step(self, step: int, steps: int) -> None:
        """One step in the order of the training loop."""
        scheduler, optimizer = self.scheduler, self.optimizer
        if scheduler is not None:
            scheduler.on_minibatch_begin(1, step, steps, optimizer)
        loss = self.loss(self.model(self.batch[0]), self.batch[1])
        if scheduler is not None:
            loss = scheduler.before_backward_pass(1, step, steps, loss, optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if scheduler is not None:
            scheduler.before_parameter_optimization(1, step, steps, optimizer)
        optimizer.step()
        if scheduler is not None:
            scheduler.on_minibatch_end(1, step, steps, optimizer)


def agp(model: nn.Module, optimizer: torch.optim.Optimizer) -> CompressionScheduler:
    """AGP over every convolution, at its final level in epoch 1."""
    weights = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    pruner = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.05, "final_sparsity": 0.4, "weights": weights}
    policy = {"pruner": {"instance_name": "agp"}, "starting_epoch": 0, "ending_epoch": 2, "frequency": 1}
    return dict_config(model, optimizer, {"pruners": {"agp": pruner}, "policies": [policy]})


def compare(
    name: str,
    make: Callable[[], nn.Module],
    batch: tuple[Tensor, Tensor],
    loss: Callable[..., Tensor],
    rounds: int,
    steps: int,
) -> None:
    """Prints one row: the time of a bare step and the ratios."""
    bare, scheduled = (Loop(make(), batch, loss, active) for active in (False, True))
    for loop in (bare, scheduled):
        loop.run(3)
    ratios, times = [], []
    for i in range(rounds):  # A B, then B A: neither is always the first
        pair = (bare, scheduled) if i % 2 == 0 else (scheduled, bare)
        seconds = {loop: loop.run(steps) for loop in pair}
        ratios.append(seconds[scheduled] / seconds[bare])
        times.append(1000 * seconds[bare] / steps)
    print(
        f"{name:10s}  bare step {statistics.median(times):7.1f} ms   scheduled / bare: "
        f"min {min(ratios):.3f}  median {statistics.median(ratios):.3f}  max {max(ratios):.3f}"
    )


def main() -> None:
    """Prints a row for C2SRCNN and one for ResNet-20."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pictures, large = torch.rand(8, 3, 32, 32), torch.rand(8, 3, 64, 64)
    compare("C2SRCNN", lambda: Net(2), (pictures, large), functional.l1_loss, options.rounds, options.steps)
    labels = torch.randint(10, (64,))
    batch = (torch.rand(64, 3, 32, 32), labels)
    compare("ResNet-20", resnet20, batch, functional.cross_entropy, options.rounds, options.steps)


if __name__ == "__main__":
    main()

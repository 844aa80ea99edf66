"""Images a second in super-resolution training, against a plain PyTorch loop with the same model and loader.

    python benchmarks/throughput.py [--rounds 5] [--threads 2]

Ours is an epoch of the real trainer under no schedule: hooks, progress, means of the losses. The plain loop is what
one writes by hand: the same network, optimizer, loss, memory format, and a loader with the same data set and
settings. They take turns, an epoch each.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import Ratios, compare, options_of
from compress.scheduler import CompressionScheduler
from data.loaders import sr_training_loaders
from engine.trainer import BaseTrainer
from models.C2SRCNN.solver import C2SRCNNTrainer
from options.Normal_options.train_options import TrainOptions

SAMPLES = 320


def ours(trainer: BaseTrainer) -> Callable[[], None]:
    """An epoch of the trainer."""
    empty = CompressionScheduler(trainer.model, optimizer=trainer.optimizer)

    def epoch() -> None:
        trainer.train(0, empty)

    return epoch


def plain(trainer: BaseTrainer) -> Callable[[], None]:
    """An epoch written by hand, of a network of its own."""
    model = trainer.build_model().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=trainer.config.lr)
    dataset = trainer.training_loader.dataset
    loader: DataLoader = DataLoader(dataset, trainer.config.batchSize, shuffle=True, num_workers=trainer.config.workers)

    def epoch() -> None:
        for low, high in loader:
            low, high = (each.to(memory_format=torch.channels_last) for each in (low, high))
            loss = functional.l1_loss(model(low), high)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def measured(rounds: int, threads: int) -> dict[str, Ratios]:
    """Time of an epoch of both, the plain one first."""
    config = TrainOptions().parse([f"--samples={SAMPLES}", "--nEpochs=1", f"--threads={threads}", "--device=cpu"])
    trainer = C2SRCNNTrainer(config, *sr_training_loaders(config))
    with tempfile.TemporaryDirectory():
        trainer.build()
    ways = {"plain loop": plain(trainer), "train.py": ours(trainer)}
    return compare(ways, rounds, 1, time.perf_counter)  # the loader's processes work too


def main() -> None:
    """Prints both."""
    options = options_of(__doc__)
    for name, ratios in measured(options.rounds, options.threads).items():
        print(f"{name:12s} {1000 * SAMPLES / ratios.milliseconds:8.1f} images/s   time to plain: {ratios}", flush=True)


if __name__ == "__main__":
    main()

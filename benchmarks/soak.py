"""Trains short runs for as long as asked, and prints memory and open files: both must stay where they are.

    python benchmarks/soak.py [--minutes 60] [--every 30] [--folder DIR]

Each run has four epochs of a few steps under a schedule that prunes filters, thins the network, prunes elements and
averages weights; after every epoch it validates, saves and writes its log, and every second run is resumed in the
middle. Every run has a name of its own in a temporary folder, which is emptied. At the end the growth of memory from
the end of the first quarter to the last is printed, fitted by a line, with the number of runs; the exit code is 1 if
it is more than `MOST_GROWTH` an hour or a file was left open.
"""

import argparse
import contextlib
import gc
import io
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.runs.console import Interrupted
from data.loaders import sr_training_loaders
from engine.resume import resumed
from models.C2SRCNN.solver import C2SRCNNTrainer
from options.Normal_options.train_options import TrainOptions

MOST_GROWTH = 50 << 20  # bytes an hour
SCHEDULE = """\
version: 1
pruners:
  filters: {class: L1RankedStructureParameterPruner, desired_sparsity: 0.25, weights: [mid_part.1.weight]}
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: ['mid_part.[357].weight']}
extensions:
  thin: {class: FilterRemover}
policies:
  - pruner: {instance_name: filters}
    epochs: [1]
  - extension: {instance_name: thin}
    epochs: [1]
  - pruner: {instance_name: agp}
    starting_epoch: 2
    ending_epoch: 4
    frequency: 1
"""
SMALL = [
    "--traindata=images",
    "--samples=16",
    "--patch-size=24",
    "--batchSize=4",
    "--compress=soak.yaml",
    "--ema=0.9",
    "--upscale-factor=4",
]


def train(*arguments: str) -> None:
    """One run, quietly."""
    config = resumed(TrainOptions().parse(list(arguments)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        C2SRCNNTrainer(config, *sr_training_loaders(config)).run()


def one_run(number: int) -> None:
    """Four epochs, every second time in two parts; what it wrote is removed."""
    name = f"soak{number}"
    if number % 2:
        train(*SMALL, f"--run={name}", "--nEpochs=4")
    else:
        train(*SMALL, f"--run={name}", "--nEpochs=2")
        train(f"--resume={name}", "--nEpochs=4")
    for folder in ("logs", "results", "checkpoints"):
        shutil.rmtree(Path(folder) / name)


def state() -> tuple[int, int]:
    """Bytes of memory in use and open files of this process (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


def prepare(folder: Path) -> None:
    """Images and the schedule."""
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(4):
        pixels = draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    (folder / "soak.yaml").write_text(SCHEDULE)


def soak(seconds: float, every: float) -> list[tuple[float, int, int]]:
    """Runs until the time is over; rows of seconds, bytes, files."""
    started = told = time.monotonic()
    rows, number = [], 0
    while time.monotonic() - started < seconds or number < 4:
        try:
            one_run(number)
        except Interrupted:
            print("interrupted; what was measured counts", flush=True)
            break
        number += 1
        memory, files = state()
        rows.append((time.monotonic() - started, memory, files))
        if time.monotonic() - told > every or number == 1:
            told = time.monotonic()
            print(f"{rows[-1][0]:7.0f} s  {number:5d} runs  {memory / 2**20:8.1f} MB  {files:4d} files", flush=True)
    return rows


def verdict(rows: list[tuple[float, int, int]]) -> int:
    """Prints growth over the last three quarters; returns the exit code."""
    later = rows[len(rows) // 4 :]
    times, memory = np.array([row[0] for row in later]), np.array([row[1] for row in later])
    slope = float(np.polyfit(times, memory, 1)[0]) * 3600 if len(later) > 1 else 0.0
    files = {row[2] for row in later}
    first, last = memory[0] / 2**20, memory[-1] / 2**20
    print(
        f"{len(rows)} runs; memory {slope / 2**20:+.1f} MB an hour ({first:.0f} MB after the first quarter, {last:.0f} "
        f"MB at the end); open files {min(files)} to {max(files)}"
    )
    return int(slope > MOST_GROWTH or max(files) > later[0][2] + 2)


def main() -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two printed lines")
    parser.add_argument("--folder", type=Path, help="where the runs are written; default: a temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("run").setLevel(logging.ERROR)
    logging.getLogger("compress").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        prepare(folder)
        os.chdir(folder)
        code = verdict(soak(60 * options.minutes, options.every))
        os.chdir("/")
    return code


if __name__ == "__main__":
    sys.exit(main())

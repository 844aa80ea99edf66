"""Loading of a large folder of images: time to the first batch, samples a second, memory, against torchvision's.

    python benchmarks/loading.py FOLDER [--images 20000] [--samples 2000] [--workers 1] [--rounds 3]

Ours is the training set of super-resolution with its loader: crops of 64 pixels and their low resolution, made of the
whole image, flipped and turned. The other is what one writes with torch's DataLoader: torchvision decodes, cuts,
resizes the crop and flips it. Each is measured in a process of its own, in turns; FOLDER is filled with JPEG files of
256 x 256 pixels, cut out of photographs that scikit-image brings, if it does not exist. The system's cache holds them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH, CROP, SIDE = 16, 64, 256
WAYS = ("torch and torchvision", "ours")


def fill(folder: Path, count: int) -> None:
    """Writes that many images, each another part of a photograph."""
    import numpy as np
    from PIL import Image
    from skimage import data

    photographs = [data.astronaut(), data.coffee(), data.rocket(), data.chelsea()]
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        whole = photographs[i % len(photographs)]
        top, left = (int(draw.integers(side - SIDE + 1)) for side in whole.shape[:2])
        Image.fromarray(whole[top : top + SIDE, left : left + SIDE]).save(folder / f"{i:05d}.jpg", quality=90)


def ours(folder: Path, workers: int, samples: int) -> Iterator[Any]:
    """Batches of the training set of super-resolution."""
    from data.data import get_training_set
    from data.loaders import training_loader

    count = len(list(folder.iterdir()))  # one crop of each image in an epoch, of which the first are taken
    crops = get_training_set(2, str(folder), patch_size=CROP, samples=count, seed=0)
    return islice(training_loader(crops, BATCH, workers, 0), samples // BATCH)


def plain(folder: Path, workers: int, samples: int) -> Iterator[Any]:
    """Batches of a data set as one writes it."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import decode_image
    from torchvision.transforms import v2

    class Folder(Dataset[Any]):
        def __init__(self) -> None:
            self.paths = sorted(folder.iterdir())
            self.crop = v2.Compose([v2.RandomCrop(CROP), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            high = self.crop(decode_image(str(self.paths[index]), mode="RGB"))
            low = v2.functional.resize(high, [CROP // 2] * 2, v2.InterpolationMode.BICUBIC, antialias=True)
            return low.to(torch.float32) / 255, high.to(torch.float32) / 255

    images = Folder()
    return islice(DataLoader(images, BATCH, shuffle=True, num_workers=workers), samples // BATCH)


def measure(way: str, folder: Path, workers: int, samples: int) -> dict[str, float]:
    """Seconds to the first batch, samples a second from there, most memory of a process in MB."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    batches = (ours if way == "ours" else plain)(folder, workers, samples)
    next(batches)
    first = time.perf_counter() - started
    count, started = 0, time.perf_counter()
    for low, _ in batches:
        count += len(low)
    rate = count / (time.perf_counter() - started)
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    return {"first": first, "rate": rate, "memory": most}


def measured(folder: Path, options: Any) -> dict[str, list[dict[str, float]]]:
    """Way -> what each round gave, each in a process of its own."""
    if not folder.exists():
        fill(folder, options.images)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(options.rounds):
        for way in WAYS if turn % 2 else reversed(WAYS):
            command = [sys.executable, __file__, str(folder), "--way", way, "--samples", str(options.samples)]
            command += ["--workers", str(options.workers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20000, help="to fill a new folder with")
    parser.add_argument("--samples", type=int, default=2000, help="of a measurement")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Prints a row for each way."""
    options = arguments().parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.folder, options.workers, options.samples)))
        return
    found = measured(options.folder, options)
    for way, rounds in found.items():
        first, rate, memory = (statistics.median(each[key] for each in rounds) for key in ("first", "rate", "memory"))
        print(
            f"{way:22s} first batch after {first:6.2f} s   {rate:7.0f} samples/s   {memory:6.0f} MB a process at most"
        )
    load = os.getloadavg()[0]
    print(f"{len(list(options.folder.iterdir())):,} images, {options.workers} workers, load {load:.1f}")


if __name__ == "__main__":
    main()

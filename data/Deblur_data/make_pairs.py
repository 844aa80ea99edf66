"""Makes pairs of sharp pictures: python -m data.Deblur_data.make_pairs SRC DST

Here: the command. Not here: blur (motion.py), reading pairs (folders.py). Which blur a picture gets follows from the
seed, its name and the pair's number alone, so that a call that was interrupted goes on where it was.
"""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from compress.errors import UserError
from data.Deblur_data.motion import blur_whole, random_kernel
from data.folders import picture_files
from data.pictures import DECODE_ERRORS, Picture, Pixels

logger = logging.getLogger("run")


def make_pairs(source: Path, target: Path, count: int = 1, length: float = 40.0, seed: int = 0) -> int:
    """Writes `target`/blurred/NAME_N.png and `target`/sharp/NAME_N.png of each picture; pairs that are there stay.

    Args:
        source: folder of sharp pictures.
        target: folder, made if needed.
        count: pairs of each picture, >= 1.
        length: longest way of the camera, pixels.
        seed: >= 0.

    Returns:
        number of pairs of readable pictures.

    Raises:
        UserError: `source` has no picture that can be read.
    """
    pictures = picture_files(source)
    for kind in ("blurred", "sharp"):
        (target / kind).mkdir(parents=True, exist_ok=True)
    bar = tqdm(pictures, "pairs", disable=not sys.stderr.isatty(), leave=False)
    made = sum(_pairs_of(each, target, count, length, seed) for each in bar)
    if not made:
        raise UserError(f"{source} holds no picture that can be read, so no pairs were made")
    return made


def _pairs_of(picture: Picture, target: Path, count: int, length: float, seed: int) -> int:
    try:
        sharp = np.ascontiguousarray(picture.load().transpose(2, 0, 1))
    except DECODE_ERRORS as error:
        logger.warning("skipped %s: %s", picture.path, error)
        return 0
    for number in range(count):
        name = f"{picture.name}_{number}.png"
        if (target / "sharp" / name).exists():  # written last
            continue
        key = int.from_bytes(hashlib.sha256(picture.path.name.encode()).digest()[:8])
        kernel = random_kernel(np.random.default_rng((seed, key, number)), length)
        _write(blur_whole(sharp, kernel), target / "blurred" / name)
        _write(sharp, target / "sharp" / name)
    return count


def _write(pixels: Pixels, path: Path) -> None:
    unfinished = path.with_suffix(".part")
    Image.fromarray(pixels.transpose(1, 2, 0)).save(unfinished, format="PNG")
    os.replace(unfinished, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 after a fault of the user's."""
    parser = argparse.ArgumentParser(prog="python -m data.Deblur_data.make_pairs", description="Blurs sharp pictures.")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of sharp pictures")
    parser.add_argument("target", type=Path, metavar="DST", help="folder of pairs: blurred/ and sharp/")
    parser.add_argument("--count", type=int, default=1, help="pairs of each picture (default: 1)")
    parser.add_argument("--length", type=float, default=40.0, help="longest way of the camera, pixels (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the blur (default: 0)")
    given = parser.parse_args(arguments)
    try:
        if not given.source.is_dir():
            raise UserError(f"{given.source} is not a folder")
        if given.count < 1 or not 2 <= given.length < 10_000 or given.seed < 0:
            raise UserError("--count is 1 or more, --length from 2 to 10000 pixels, --seed 0 or more")
        print(
            f"{make_pairs(given.source, given.target, given.count, given.length, given.seed)} pairs in {given.target}"
        )
    except UserError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

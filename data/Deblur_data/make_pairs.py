"""Makes pairs of sharp images: python -m data.Deblur_data.make_pairs SRC DST

The command. Which blur an image gets follows from the seed, its name and the pair's number alone, so that a call
that was interrupted continues where it was.
"""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from compress.errors import UserError, printable
from compress.io.files import replacing
from compress.io.terminal import answer, guard_screen
from data.Deblur_data.motion import LONGEST_BLUR, SHORTEST_BLUR, blur_whole, random_kernel
from data.Deblur_data.pairs_index import FILE, PairsIndex, read_index, write_index
from data.folders import image_files
from data.images import DECODE_ERRORS, ImageFile, Pixels

logger = logging.getLogger("run")
MOST_PAIRS, LARGEST_SEED = 10_000, 1 << 63  # of one photograph


class Pairs(NamedTuple):
    """Numbers of pairs: written by a call, and there already."""

    made: int
    kept: int


def make_pairs(source: Path, target: Path, count: int = 1, length: float = 40.0, seed: int = 0) -> Pairs:
    """Writes `target`/blurred/NAME_N.png and `target`/sharp/NAME_N.png of each image; pairs that are there stay.

    `target`/pairs.json says which image a name stands for, so that pairs of one image stay on one side of a split.

    Args:
        source: folder of sharp images.
        target: folder, made if needed.
        count: pairs of each image, >= 1.
        length: longest way of the camera, pixels.
        seed: >= 0.

    Returns:
        how many pairs were made, and how many were there.

    Raises:
        UserError: `source` has no image that can be read; or `target` holds pairs of another length or seed, or
            images that were not made here.
    """
    all_images = image_files(source)
    for kind in ("blurred", "sharp"):
        (target / kind).mkdir(parents=True, exist_ok=True)
    index = _index(target, length, seed).with_names(each.path.name for each in all_images)
    write_index(target, index)
    bar = tqdm(all_images, "pairs", disable=not sys.stderr.isatty(), leave=False)
    each_made = [_pairs_of(each, target / "sharp", count, index) for each in bar]
    pairs = Pairs(sum(each.made for each in each_made), sum(each.kept for each in each_made))
    if not any(pairs):
        raise UserError(f"{source} holds no image that can be read, so no pairs were made")
    return pairs


def _index(target: Path, length: float, seed: int) -> PairsIndex:
    """The index that is there, or a new one."""
    index = read_index(target)
    if index is None and any((target / "sharp").iterdir()):
        raise UserError(
            f"{target} holds images and no {FILE}, so they were not made by this command; nothing was done. Name an "
            "empty or a new folder"
        )
    if index is not None and (index.length, index.seed) != (length, seed):
        raise UserError(
            f"{target} holds pairs of --length={index.length:g} --seed={index.seed}; with --length={length:g} "
            f"--seed={seed} they would be others. Nothing was done; name another folder"
        )
    return index or PairsIndex(length, seed)


def _pairs_of(image: ImageFile, folder: Path, count: int, index: PairsIndex) -> Pairs:
    """Makes those of one image that are not in `folder`, the one of sharp images, yet."""
    file = image.path.name
    paths = {number: folder / f"{index.names[printable(file)]}_{number}.png" for number in range(count)}
    missing = [number for number, path in paths.items() if not path.exists()]  # sharp images are written last
    if not missing:
        return Pairs(0, count)
    try:
        sharp = np.ascontiguousarray(image.load().transpose(2, 0, 1))
    except DECODE_ERRORS as error:
        logger.warning("skipped %s: %s", image.path, error)
        return Pairs(0, count - len(missing))
    key = int.from_bytes(hashlib.sha256(os.fsencode(file)).digest()[:8])
    for number in missing:
        kernel = random_kernel(np.random.default_rng((index.seed, key, number)), index.length)
        _write(blur_whole(sharp, kernel), folder.parent / "blurred" / paths[number].name)
        _write(sharp, paths[number])
    return Pairs(len(missing), count - len(missing))


def _write(pixels: Pixels, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(pixels.transpose(1, 2, 0)).save(temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    parser = argparse.ArgumentParser(prog="python -m data.Deblur_data.make_pairs", description="Blurs sharp images.")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of sharp images")
    parser.add_argument("target", type=Path, metavar="DST", help="folder of pairs: blurred/ and sharp/")
    parser.add_argument("--count", type=int, default=1, help="pairs of each image (default: 1)")
    parser.add_argument("--length", type=float, default=40.0, help="longest way of the camera, pixels (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the blur (default: 0)")
    given = parser.parse_args(arguments)
    return answer(lambda: _made(given))


def _made(given: argparse.Namespace) -> str:
    if not given.source.is_dir():
        raise UserError(f"{given.source} is not a folder")
    counted = 1 <= given.count <= MOST_PAIRS and 0 <= given.seed < LARGEST_SEED
    if not counted or not SHORTEST_BLUR <= given.length <= LONGEST_BLUR:
        raise UserError(
            f"--count is from 1 to {MOST_PAIRS:,}, --length from {SHORTEST_BLUR:g} to {LONGEST_BLUR:g} pixels, --seed "
            "from 0 to 2^63 - 1"
        )
    pairs = make_pairs(given.source, given.target, given.count, given.length, given.seed)
    return f"{given.target}: {pairs.made} pairs made, {pairs.kept} were there"


if __name__ == "__main__":
    sys.exit(main())

"""Sources of pairs: sharp images that are degraded when they are asked for, and pairs that are files.

One pair's pixels, whole or cut; `Degradation`, what is done to a sharp image.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from compress.errors import UserError
from data.decoding import MEMORY_BUDGET, Decoded, bytes_of, sizes, workers
from data.embedded import Part, embedded_images
from data.folders import folder_images
from data.images import DECODE_ERRORS, ImageFile, Pixels, planes
from data.restoration import random_crop

MIDDLE = 256  # pixels: of embedded photographs the middle is measured
EVALUATION_SEED = 2018  # of what is done to measured images, whatever the run's seed: runs stay comparable
SMALLEST = 32  # pixels, of a side
MANY = 100  # images that are read before anything else happens: then a line says so

_logger = logging.getLogger(__name__)


class NamedPair(NamedTuple):
    """A whole pair: (3, H, W) each, 0..255."""

    name: str
    degraded: Pixels
    sharp: Pixels


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair.

    Attributes:
        name: what reports call it.
        sharp: the sharp image; or the image that holds both, blurred on the left, if `blurred` is None.
        blurred: the blurred image.
        group: pairs of one group stay on one side of a split, such as the frames of one scene.
    """

    name: str
    sharp: ImageFile
    blurred: ImageFile | None = None
    group: str = ""

    def paths(self) -> list[Path]:
        """The file or both."""
        return [each.path for each in (self.sharp, self.blurred) if each is not None]

    def load(self) -> tuple[Pixels, Pixels]:
        """(blurred, sharp), (3, H, W) each. Raises one of `DECODE_ERRORS`; ValueError if sizes do not fit."""
        if self.blurred is None:
            both = planes(_loaded(self.sharp))
            half = both.shape[2] // 2
            blurred, sharp = both[:, :, :half], both[:, :, half : 2 * half]
        else:
            blurred, sharp = planes(_loaded(self.blurred)), planes(_loaded(self.sharp))
        if blurred.shape != sharp.shape:
            raise ValueError(
                f"blurred is {blurred.shape[2]} x {blurred.shape[1]} pixels, sharp {sharp.shape[2]} x {sharp.shape[1]}"
            )
        _refuse_small(sharp.shape[1:])
        return blurred, sharp


class PairSource(ABC):
    """Pairs by number."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of pairs."""

    @abstractmethod
    def crop(self, index: int, side: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """A random crop (degraded, sharp), (3, side, side) each; an image that is smaller is mirrored at its edges."""

    @abstractmethod
    def whole(self, index: int) -> NamedPair:
        """A whole pair, the same each time."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that pairs are made of."""

    def facts(self) -> dict[str, Any]:
        """What whole pairs follow from beside the images, as plain data; none of pairs that are files."""
        return {}


class Degradation(ABC):
    """What is done to a sharp image.

    Attributes:
        margin: pixels around a crop that what is done to it depends on.
        copies: of each image that is measured.
    """

    margin: int = 0
    copies: int = 1

    def begin(self, draw: np.random.Generator) -> "Degradation":
        """The degradation of one image: random parameters are drawn here, before the place of a crop is."""
        return self

    @abstractmethod
    def whole(self, sharp: Pixels, draw: np.random.Generator) -> Pixels:
        """The degraded image, (3, H, W) like the sharp one."""

    def crop(self, wide: Pixels, draw: np.random.Generator) -> Pixels:
        """The degraded inside of a crop that has the margin around it."""
        return inside(self.whole(wide, draw), self.margin)

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """It in words, as plain data: networks are compared only where it is equal."""


class DegradedImages(PairSource):
    """Sharp images, degraded when they are asked for; whole images under fixed seeds.

    Args:
        images: sharp ones; unusable ones are logged and left out.
        degradation: what is done to them.
        middle: measure only the middle, at most so many pixels high and wide; None measures whole images.
        lazily: for training; see `usable`.

    Raises:
        UserError: no usable image.
    """

    def __init__(
        self, all_images: Sequence[ImageFile], degradation: Degradation, middle: int | None = None,
        lazily: bool = False,
    ) -> None:  # fmt: skip
        self.degradation, self.middle = degradation, middle
        pairs = [PairFiles(each.name, each) for each in all_images]
        self.all_images, self._pixels = usable(pairs, _sharp_alone, lazily)

    def __len__(self) -> int:
        return self.degradation.copies * len(self.all_images)

    def crop(self, index: int, side: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """See `PairSource`. It is cut wider than it will be, so that it holds what reaches into it."""
        degradation = self.degradation.begin(draw)
        wide = random_crop(self._sharp(index % len(self.all_images)), side + 2 * degradation.margin, draw)
        return degradation.crop(wide, draw), inside(wide, degradation.margin)

    def whole(self, index: int) -> NamedPair:
        """See `PairSource`."""
        copies = self.degradation.copies
        place, number = index // copies, index % copies
        draw, sharp = np.random.default_rng((EVALUATION_SEED, place, number)), self._sharp(place)
        degraded = self.degradation.begin(draw).whole(sharp, draw)
        if self.middle is not None:
            degraded, sharp = (_middle(each, self.middle) for each in (degraded, sharp))
        name = self.all_images[place].name
        return NamedPair(f"{name}_{number}" if copies > 1 else name, degraded, sharp)

    def files(self) -> list[Path]:
        """See `PairSource`."""
        return [path for pair in self.all_images for path in pair.paths()]

    def facts(self) -> dict[str, Any]:
        """See `PairSource`."""
        return self.degradation.facts()

    @classmethod
    def of_part(
        cls, place: Path | None, part: Part, degradation: Degradation,
        found: Callable[[Path, Part], Sequence[ImageFile]] = folder_images,
    ) -> "DegradedImages":  # fmt: skip
        """The sharp images of one part of a folder; None is the embedded photographs, whose middle is measured."""
        if place is None:
            return cls(embedded_images(part), degradation, MIDDLE)
        return cls(found(place, part), degradation, lazily=part == "train")

    def _sharp(self, place: int) -> Pixels:
        return self._pixels[place][0]


def _loaded(image: ImageFile) -> Pixels:
    """Its pixels; an error of decoding says of which file of a pair it is."""
    try:
        return image.load()
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{image.path.parent.name}/{image.path.name}: {error}") from error


def inside(pixels: Pixels, margin: int) -> Pixels:
    """What is left of (3, H, W) without a margin on each side."""
    return pixels[:, margin : pixels.shape[1] - margin, margin : pixels.shape[2] - margin]


class FilePairs(PairSource):
    """Pairs that are files.

    Args:
        pairs: unusable ones are logged and left out.
        lazily: for training; see `usable`.

    Raises:
        UserError: no usable pair.
    """

    def __init__(self, pairs: Sequence[PairFiles], lazily: bool = False) -> None:
        self.pairs, self._pixels = usable(pairs, PairFiles.load, lazily)

    def __len__(self) -> int:
        return len(self.pairs)

    def crop(self, index: int, side: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """See `PairSource`."""
        both = random_crop(np.concatenate(self._pixels[index % len(self.pairs)]), side, draw)
        return both[:3], both[3:]

    def whole(self, index: int) -> NamedPair:
        """See `PairSource`."""
        return NamedPair(self.pairs[index].name, *self._pixels[index])

    def files(self) -> list[Path]:
        """See `PairSource`."""
        return [path for pair in self.pairs for path in pair.paths()]


def usable(
    pairs: Sequence[PairFiles], load: Callable[[PairFiles], tuple[Pixels, ...]], lazily: bool = False,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[list[PairFiles], Decoded[tuple[Pixels, ...]]]:  # fmt: skip
    """Those that load, and their pixels; the others are logged with the reason.

    `lazily`, and where not all fit the memory budget, only the heads of the files are read here, and of a pair that
    turns out to be damaged later the next one stands in. On a terminal a bar shows how far it is.

    Args:
        pairs: candidates.
        load: what is kept of a pair.
        lazily: for training. Measured images are decoded beforehand: each counts once.
        memory_budget: bytes of pixels that stay in memory.

    Raises:
        UserError: none loads.
    """
    heads = sizes([ImageFile(pair.name, path) for pair in pairs for path in pair.paths()]) if lazily else []
    unread = bytes_of(heads) > memory_budget
    check = _check_heads if unread else load
    if len(pairs) >= MANY and not unread:
        _logger.info("reading %d images in %s once, to find damaged ones", len(pairs), pairs[0].sharp.path.parent)
    kept: list[PairFiles] = []
    pixels = Decoded(0, partial(_load_of, load, kept), partial(_path_of, kept), memory_budget)
    with ThreadPoolExecutor(workers()) as pool:
        found = pool.map(partial(_tried, check), pairs)
        bar = tqdm(zip(pairs, found, strict=True), "reading", len(pairs), disable=not sys.stderr.isatty(), leave=False)
        for pair, entry in bar:
            if isinstance(entry, Exception):
                _logger.warning("skipped %s: %s", pair.sharp.path, entry)
                continue
            if not unread:
                pixels.keep(len(kept), entry)
            kept.append(pair)
    if not kept:
        where = f" in {pairs[0].sharp.path.parent}" if pairs else ""
        raise UserError(f"no usable image{where}: {len(pairs)} of {len(pairs)} files were skipped")
    pixels.count, pixels.unread = len(kept), unread
    return kept, pixels


def _load_of(
    load: Callable[[PairFiles], tuple[Pixels, ...]], pairs: Sequence[PairFiles], place: int
) -> tuple[Pixels, ...]:
    return load(pairs[place])


def _path_of(pairs: Sequence[PairFiles], place: int) -> Path:
    return pairs[place].sharp.path


def _tried(load: Callable[[PairFiles], tuple[Pixels, ...]], pair: PairFiles) -> tuple[Pixels, ...] | Exception:
    """What a pair gives, or why it does not load."""
    try:
        return load(pair)
    except DECODE_ERRORS as error:
        return error


def _check_heads(pair: PairFiles) -> tuple[Pixels, ...]:
    for path in pair.paths():
        _refuse_small(ImageFile(pair.name, path).size())
    return ()


def _sharp_alone(pair: PairFiles) -> tuple[Pixels]:
    pixels = planes(pair.sharp.load())
    _refuse_small(pixels.shape[1:])
    return (pixels,)


def _refuse_small(size: tuple[int, ...]) -> None:
    if min(size) < SMALLEST:
        raise ValueError(f"a side is below {SMALLEST} pixels")


def _middle(pixels: Pixels, side: int) -> Pixels:
    top, left = (max(size - side, 0) // 2 for size in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]

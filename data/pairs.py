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
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from compress.errors import UserError
from data.embedded import Part, embedded_images
from data.folders import folder_images
from data.images import DECODE_ERRORS, ImageFile, Pixels, planes
from data.restoration import random_crop

RECENT = 32  # decoded images that are kept
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
            both = planes(self.sharp.load())
            half = both.shape[2] // 2
            blurred, sharp = both[:, :, :half], both[:, :, half : 2 * half]
        else:
            blurred, sharp = planes(self.blurred.load()), planes(self.sharp.load())
        if blurred.shape != sharp.shape:
            raise ValueError(
                f"blurred is {blurred.shape[2]} x {blurred.shape[1]} pixels, sharp {sharp.shape[2]} x {sharp.shape[1]}"
            )
        if min(sharp.shape[1:]) < SMALLEST:
            raise ValueError(f"a side is below {SMALLEST} pixels")
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

    Raises:
        UserError: no usable image.
    """

    def __init__(self, all_images: Sequence[ImageFile], degradation: Degradation, middle: int | None = None) -> None:
        self.degradation, self.middle = degradation, middle
        self.all_images = usable([PairFiles(each.name, each) for each in all_images], _sharp_alone)
        self._recent = Recent()

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
        return cls(found(place, part), degradation)

    def _sharp(self, place: int) -> Pixels:
        return self._recent.get(place, lambda: (_sharp_alone(self.all_images[place]),))[0]


def inside(pixels: Pixels, margin: int) -> Pixels:
    """What is left of (3, H, W) without a margin on each side."""
    return pixels[:, margin : pixels.shape[1] - margin, margin : pixels.shape[2] - margin]


class FilePairs(PairSource):
    """Pairs that are files.

    Args:
        pairs: unusable ones are logged and left out.

    Raises:
        UserError: no usable pair.
    """

    def __init__(self, pairs: Sequence[PairFiles]) -> None:
        self.pairs = usable(pairs, PairFiles.load)
        self._recent = Recent()

    def __len__(self) -> int:
        return len(self.pairs)

    def crop(self, index: int, side: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """See `PairSource`."""
        both = random_crop(np.concatenate(self._pair(index % len(self.pairs))), side, draw)
        return both[:3], both[3:]

    def whole(self, index: int) -> NamedPair:
        """See `PairSource`."""
        return NamedPair(self.pairs[index].name, *self._pair(index))

    def files(self) -> list[Path]:
        """See `PairSource`."""
        return [path for pair in self.pairs for path in pair.paths()]

    def _pair(self, index: int) -> tuple[Pixels, ...]:
        return self._recent.get(index, self.pairs[index].load)


class Recent:
    """The pixels that were decoded last, `RECENT` entries of them."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Pixels, ...]] = {}

    def get(self, index: int, load: Callable[[], tuple[Pixels, ...]]) -> tuple[Pixels, ...]:
        """The entry; one that is not there is loaded, and the oldest leaves."""
        if index not in self._kept:
            self._kept[index] = load()
            if len(self._kept) > RECENT:
                del self._kept[next(iter(self._kept))]
        return self._kept[index]


def usable(pairs: Sequence[PairFiles], load: Callable[[PairFiles], object]) -> list[PairFiles]:
    """Those that load; the others are logged with the reason. On a terminal a bar shows how far it is.

    Raises:
        UserError: none does.
    """
    if len(pairs) >= MANY:
        _logger.info("reading %d images in %s once, to find damaged ones", len(pairs), pairs[0].sharp.path.parent)
    kept = []
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        faults = pool.map(partial(_fault, load), pairs)
        bar = tqdm(zip(pairs, faults, strict=True), "reading", len(pairs), disable=not sys.stderr.isatty(), leave=False)
        for pair, fault in bar:
            if fault is not None:
                _logger.warning("skipped %s: %s", pair.sharp.path, fault)
            else:
                kept.append(pair)
    if not kept:
        where = f" in {pairs[0].sharp.path.parent}" if pairs else ""
        raise UserError(f"no usable image{where}: {len(pairs)} of {len(pairs)} files were skipped")
    return kept


def _fault(load: Callable[[PairFiles], object], pair: PairFiles) -> Exception | None:
    """Why a pair does not load; None if it does. What was loaded is dropped here, in the thread."""
    try:
        load(pair)
    except DECODE_ERRORS as error:
        return error
    return None


def _sharp_alone(pair: PairFiles) -> Pixels:
    pixels = planes(pair.sharp.load())
    if min(pixels.shape[1:]) < SMALLEST:
        raise ValueError(f"a side is below {SMALLEST} pixels")
    return pixels


def _middle(pixels: Pixels, side: int) -> Pixels:
    top, left = (max(size - side, 0) // 2 for size in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]

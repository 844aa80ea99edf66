"""Pairs of low and high resolution, made once and kept in memory while they fit.

Decoding, down-sampling, the memory budget, and skipping what cannot be used. Called by `dataset.py`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from compress.errors import UserError, printable
from data.decoding import MEMORY_BUDGET, Decoded, Size, bytes_of, say_skipped, sizes, workers
from data.images import DECODE_ERRORS, ImageFile, Pixels, crop_to_multiple, down_sample, planes

REACH = 3  # pixels of the low resolution: the bicubic kernel reaches 2, and one more for rounding

_logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """One image at both resolutions, 8 bits, colour planes first: crops of them are quick to copy.

    Attributes:
        low: (3, h, w).
        high: (3, h * scale, w * scale).
    """

    low: Pixels
    high: Pixels


class PairStore(Sequence[Pair]):
    """The pairs of some images. Every file is decoded once when the store is made.

    That is what finds the damaged ones before training starts; the first pairs stay in memory up to the
    budget, the others are decoded again when asked for. `lazily`, and where not all would stay, only the heads of
    the files are read when the store is made: pairs stay as they are asked for, and of a file that turns out to be
    damaged then the next one stands in (`Decoded`). A loader's workers share the budget.

    Args:
        images: candidates; those that do not decode or are too small are logged and left out.
        scale: upscale factor, 2, 3 or 4.
        smallest: smallest usable height and width, pixels of the high resolution.
        memory_budget: bytes that decoded pairs may take.
        lazily: for training. Measured images are decoded beforehand: each counts once.

    Raises:
        UserError: no usable image, or an upscale factor that is not supported.
    """

    def __init__(
        self, all_images: Sequence[ImageFile], scale: int, smallest: int = 1, memory_budget: int = MEMORY_BUDGET,
        lazily: bool = False,
    ) -> None:  # fmt: skip
        if scale not in (2, 3, 4):
            raise UserError(f"the upscale factor is {scale}; allowed are 2, 3 and 4")
        self.scale = scale
        self.all_images: list[ImageFile] = []
        self._entries: Decoded[Pair | tuple[Pixels]] = Decoded(0, self._load, self._path, memory_budget)
        found = sizes(all_images) if lazily else []
        if bytes_of(found) * (1 + 1 / scale**2) > memory_budget:
            self._entries.unread = True
            self._list(all_images, found, max(smallest, scale))
        else:
            self._fill(all_images, max(smallest, scale))
        self._entries.count = len(self)
        self._report(all_images)

    def __len__(self) -> int:
        return len(self.all_images)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
        """The pair of image `index`; one beyond the budget is decoded unless it was used recently."""
        entry = self._entries[index]
        return entry if isinstance(entry, Pair) else _pair_of(entry[0], self.scale)

    def size(self, index: int) -> Size:
        """Of the low resolution."""
        entry = self._entries[index]
        height, width = (
            entry.low.shape[1:] if isinstance(entry, Pair) else (e // self.scale for e in entry[0].shape[:2])
        )
        return height, width

    def crop(self, index: int, corner: Size, side: int) -> Pair:
        """The squares of `side` low resolution pixels at `corner` (row, column) of both, cut out of the whole pair."""
        entry = self._entries[index]
        if isinstance(entry, Pair):
            return Pair(_square(entry.low, corner, side, 1), _square(entry.high, corner, side, self.scale))
        return _cut(entry[0], corner, side, self.scale)

    def _load(self, index: int) -> Pair | tuple[Pixels]:
        """The pair; of a folder that is not decoded beforehand the high resolution alone, (H, W, 3)."""
        high = crop_to_multiple(self.all_images[index].load(), self.scale)
        return (high,) if self._entries.unread else _pair_of(high, self.scale)

    def _path(self, index: int) -> Path:
        return self.all_images[index].path

    def _list(self, all_images: Sequence[ImageFile], found: list[Size | Exception], smallest: int) -> None:
        """Takes the files whose heads say that they can be used."""
        for image, size in zip(all_images, found, strict=True):
            self._take(image, size if isinstance(size, Exception) else min(size) // self.scale * self.scale, smallest)

    def _fill(self, all_images: Sequence[ImageFile], smallest: int) -> None:
        """Takes the files that decode; the first pairs stay."""
        made = _decoded(all_images, self.scale, lambda: not self._entries.is_full)
        for image, pair in zip(all_images, made, strict=True):
            if not isinstance(pair, Pair):
                self._take(image, pair, smallest)
            elif self._take(image, min(pair.high.shape[1:]), smallest):
                self._entries.keep(len(self) - 1, pair)

    def _take(self, image: ImageFile, side: int | Exception, smallest: int) -> bool:
        """Whether it can be used: of its smaller side, or the error of decoding it. What is left out is said."""
        if isinstance(side, Exception):
            say_skipped(str(image.path), side)
        elif side < smallest:
            _logger.warning("skipped %s: it has a side below %d pixels", printable(image.path), smallest)
        else:
            self.all_images.append(image)
            return True
        return False

    def _report(self, all_images: Sequence[ImageFile]) -> None:
        """Says how many files were left out, and refuses to continue with none."""
        skipped = len(all_images) - len(self)
        if not len(self):
            where = f" in {all_images[0].path.parent}" if all_images else ""
            raise UserError(f"no usable image{where}: {skipped} of {len(all_images)} files were skipped")
        if skipped:
            _logger.warning("%d of %d images were skipped", skipped, len(all_images))


def _decoded(
    all_images: Sequence[ImageFile], scale: int, is_room: Callable[[], bool]
) -> Iterator[Pair | int | Exception]:
    """Pairs in order, or the error of a file that does not decode; a few are decoded ahead, side by side.

    Once there is no room, the smaller side alone: a pair that nobody keeps is not made.
    """
    remaining = iter(all_images)
    with ThreadPoolExecutor(workers()) as pool:
        while batch := list(islice(remaining, 4 * workers())):  # bounds what is decoded but not yet judged
            attempt = _try_pair if is_room() else _try_side
            yield from pool.map(lambda image: attempt(image, scale), batch)  # noqa: B023  used up before the next turn


def _try_pair(image: ImageFile, scale: int) -> Pair | Exception:
    try:
        return _pair_of(crop_to_multiple(image.load(), scale), scale)
    except DECODE_ERRORS as error:
        return error


def _try_side(image: ImageFile, scale: int) -> int | Exception:
    try:
        return image.smaller_side() // scale * scale
    except DECODE_ERRORS as error:
        return error


def _pair_of(high: Pixels, scale: int) -> Pair:
    return Pair(planes(down_sample(high, scale)), planes(high))


def _square(all_planes: Pixels, corner: Size, side: int, scale: int) -> Pixels:
    """The square of `side` low resolution pixels at `corner` (row, column), out of (3, H, W)."""
    (top, left), side = (scale * place for place in corner), side * scale
    return all_planes[:, top : top + side, left : left + side]


def _cut(high: Pixels, corner: Size, side: int, scale: int) -> Pair:
    """The same square of both resolutions of (H, W, 3); only the part that reaches into it is down-sampled."""
    top, left = (max(place - REACH, 0) for place in corner)
    bottom, right = (place + side + REACH for place in corner)
    low = down_sample(high[scale * top : scale * bottom, scale * left : scale * right], scale)
    inner = corner[0] - top, corner[1] - left
    return Pair(_square(low.transpose(2, 0, 1), inner, side, 1), _square(high.transpose(2, 0, 1), corner, side, scale))

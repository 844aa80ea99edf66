"""Pairs of low and high resolution, made once and kept in memory while they fit.

Decoding, down-sampling, the memory budget, and skipping what cannot be used. Called by `dataset.py`.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from typing import NamedTuple

from compress.errors import UserError, printable
from data.images import DECODE_ERRORS, ImageFile, Pixels, crop_to_multiple, down_sample, planes

MEMORY_BUDGET = 1 << 30  # bytes of decoded pairs kept by one data set
RECENT = 8  # pairs kept of those beyond the budget

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
    budget, the others are decoded again when asked for.

    Args:
        images: candidates; those that do not decode or are too small are logged and left out.
        scale: upscale factor, 2, 3 or 4.
        smallest: smallest usable height and width, pixels of the high resolution.
        memory_budget: bytes that decoded pairs may take.

    Raises:
        UserError: no usable image, or an upscale factor that is not supported.
    """

    def __init__(
        self, all_images: Sequence[ImageFile], scale: int, smallest: int = 1, memory_budget: int = MEMORY_BUDGET
    ) -> None:
        if scale not in (2, 3, 4):
            raise UserError(f"the upscale factor is {scale}; allowed are 2, 3 and 4")
        self.scale = scale
        self.all_images: list[ImageFile] = []
        self._kept: dict[int, Pair] = {}
        self._recent: OrderedDict[int, Pair] = OrderedDict()
        self._used = 0  # bytes
        self._fill(all_images, max(smallest, scale), memory_budget)

    def __len__(self) -> int:
        return len(self.all_images)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
        """The pair of image `index`; one beyond the budget is decoded unless it was used recently."""
        if index in self._kept:
            return self._kept[index]
        pair = self._recent.pop(index, None) or _make_pair(self.all_images[index], self.scale)
        self._recent[index] = pair
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return pair

    def _fill(self, all_images: Sequence[ImageFile], smallest: int, memory_budget: int) -> None:
        used = 0
        for image, pair in zip(
            all_images, _decoded(all_images, self.scale, lambda: used <= memory_budget), strict=True
        ):
            if isinstance(pair, Exception):
                _logger.warning("skipped %s: it cannot be decoded (%s)", printable(image.path), printable(pair))
                continue
            if (min(pair.high.shape[1:]) if isinstance(pair, Pair) else pair) < smallest:
                _logger.warning("skipped %s: it has a side below %d pixels", printable(image.path), smallest)
                continue
            if isinstance(pair, Pair):
                self._used += pair.low.nbytes + pair.high.nbytes
                if self._used <= memory_budget:
                    self._kept[len(self.all_images)] = pair
            self.all_images.append(image)
        self._report(all_images)

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
    workers = min(8, cpu_count() or 1)
    remaining = iter(all_images)
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(remaining, 4 * workers)):  # bounds what is decoded but not yet judged
            attempt = _try_pair if is_room() else _try_side
            yield from pool.map(lambda image: attempt(image, scale), batch)  # noqa: B023  used up before the next turn


def _try_pair(image: ImageFile, scale: int) -> Pair | Exception:
    try:
        return _make_pair(image, scale)
    except DECODE_ERRORS as error:
        return error


def _try_side(image: ImageFile, scale: int) -> int | Exception:
    try:
        return image.smaller_side() // scale * scale
    except DECODE_ERRORS as error:
        return error


def _make_pair(image: ImageFile, scale: int) -> Pair:
    high = crop_to_multiple(image.load(), scale)
    return Pair(planes(down_sample(high, scale)), planes(high))

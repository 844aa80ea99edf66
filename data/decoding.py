"""Decoding of many files: what their heads tell, what stays in memory, what stands in for a damaged one.

Shared by the sources of image restoration (`store.py`, `pairs.py`).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Generic, TypeVar

from torch.utils.data import get_worker_info

from compress.errors import UserError, printable
from data.images import DECODE_ERRORS, ImageFile, Pixels

MEMORY_BUDGET = 1 << 30  # bytes of decoded pixels kept by one data set
RECENT = 8  # entries kept of those beyond the budget

Size = tuple[int, int]
"""Height and width in pixels."""

Entry = TypeVar("Entry", bound=tuple[Pixels, ...])

_logger = logging.getLogger(__name__)


class Decoded(Generic[Entry]):
    """Entries of decoded pixels: those asked for first stay up to a budget, of the others the last few.

    A loader's workers share the budget. Where files have not been decoded before (`unread`), the next entry that
    decodes stands in for one that does not, and each damaged one is named once; which one that is follows from the
    files alone, so that every process, epoch and resumed run gets the same.

    Args:
        count: of entries.
        load: the place of an entry in [0, count) -> its pixels; raises one of `DECODE_ERRORS`.
        name: the place of an entry -> what messages call it.
        memory_budget: bytes of the entries that stay.

    Attributes:
        count: see above; it may be set later.
        unread: whether an entry may turn out to be damaged; False at first.
    """

    def __init__(
        self, count: int, load: Callable[[int], Entry], name: Callable[[int], object], memory_budget: int
    ) -> None:
        self.count, self.load, self.name, self.memory_budget = count, load, name, memory_budget
        self.unread = False
        self._kept: dict[int, Entry] = {}
        self._recent: dict[int, Entry] = {}
        self._damaged: set[int] = set()
        self._used = 0  # bytes, counted on until the first entry that has no room

    def __getitem__(self, place: int) -> Entry:
        """The entry, or the one that stands in for it.

        Raises:
            UserError: none decodes, or this one did before and no longer does.
        """
        if place in self._kept:
            return self._kept[place]
        entry = self._recent.pop(place, None) or self._first_usable(place)
        if not self.keep(place, entry):
            self._recent[place] = entry
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return entry

    def keep(self, place: int, entry: Entry) -> bool:
        """Whether the entry stays within the budget of this process."""
        if self.is_full:
            return False
        self._used += sum(pixels.nbytes for pixels in entry)
        if not self.is_full:
            self._kept[place] = entry
        return not self.is_full

    @property
    def is_full(self) -> bool:
        """Whether the next entry will not stay."""
        worker = get_worker_info()
        return self._used > self.memory_budget // (worker.num_workers if worker else 1)

    def _first_usable(self, place: int) -> Entry:
        """After the last place comes the first."""
        for step in range(self.count):
            found = (place + step) % self.count
            if found in self._damaged:
                continue
            try:
                return self.load(found)
            except DECODE_ERRORS as error:
                if not self.unread:
                    raise UserError(
                        f"{self.name(found)} can no longer be decoded ({error}); it could when its folder was read"
                    ) from None
                if isinstance(error, OSError) and error.errno is not None:  # of the system, not of a decoder
                    raise UserError(
                        f"{self.name(found)} cannot be read any more ({error.strerror}); it was there when its folder "
                        "was read"
                    ) from None
                self._damaged.add(found)
                say_skipped(f"{self.name(found)}", error, "; the next file stands in for it")
        raise UserError(f"none of {self.count} images can be decoded; the last one was {self.name(place - 1)}")


def say_skipped(name: str, reason: object, what_now: str = "") -> None:
    """The line for a file that is not used."""
    _logger.warning("skipped %s: it cannot be decoded (%s)%s", printable(name), printable(reason), what_now)


def sizes(all_images: Sequence[ImageFile]) -> list[Size | Exception]:
    """Of each as its head tells, or the error of a file whose head cannot be read."""
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(_try_size, all_images))


def bytes_of(found: Iterable[Size | Exception]) -> int:
    """What three colours of files of these sizes take."""
    return sum(3 * size[0] * size[1] for size in found if not isinstance(size, Exception))


def workers() -> int:
    """Threads that decode beside each other."""
    return min(8, cpu_count() or 1)


def _try_size(image: ImageFile) -> Size | Exception:
    try:
        return image.size()
    except DECODE_ERRORS as error:
        return error

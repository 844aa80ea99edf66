"""Progress of long work: a bar on a terminal, nothing but the caller's plain lines in a pipe.

`Bar`, called by the trainer and the analyses; `said_when_long`, a line for work that cannot be counted.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from compress.distributed import is_first
from compress.io.optional import needed

T = TypeVar("T")
logger = logging.getLogger("compress")
LONG = 3.0  # seconds


@contextlib.contextmanager
def said_when_long(text: str, seconds: float = LONG) -> Iterator[None]:
    """Logs a line if what is inside the block takes longer than some seconds."""
    timer = threading.Timer(seconds, logger.info, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Bar(Iterable[T]):
    """An iterable shown as a bar while it is iterated, on a terminal only, by the first process.

    Args:
        items: what to iterate.
        total: how many there are.
        title: in front of the bar.
        unit: what is counted, such as `img`.
        per_item: how many units one item is, such as the images of a minibatch.
    """

    def __init__(
        self, items: Iterable[T], total: int, title: str, unit: str = "step", per_item: int | None = None
    ) -> None:
        self._bar = needed("tqdm", "a progress bar").tqdm(
            items,
            title,
            total,
            leave=False,
            disable=not (sys.stderr.isatty() and is_first()),
            unit=unit,
            unit_scale=per_item or False,
            dynamic_ncols=True,
        )

    def __iter__(self) -> Iterator[T]:
        return iter(self._bar)

    def note(self, text: Callable[[], str]) -> None:
        """Replaces the text behind the bar; `text` is called only when there is a bar to show it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text(), refresh=False)

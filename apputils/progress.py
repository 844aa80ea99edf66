"""Progress of long work: a bar on a terminal, nothing but the caller's plain lines in a pipe.

Here: `Bar`. Not here: what is said per epoch. Called by the base solver and the analyses.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Bar(Iterable[T]):
    """An iterable shown as a bar while it is iterated, on a terminal only.

    Args:
        items: what to iterate.
        total: how many there are.
        title: in front of the bar.
        unit: of one item's count, such as `img`.
    """

    def __init__(self, items: Iterable[T], total: int, title: str, unit: str = "step") -> None:
        self._bar = tqdm(
            items, title, total, leave=False, disable=not sys.stderr.isatty(), unit=unit, dynamic_ncols=True
        )

    def __iter__(self) -> Iterator[T]:
        return iter(self._bar)

    def note(self, text: Callable[[], str]) -> None:
        """Replaces the text behind the bar; `text` is called only when there is a bar to show it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text(), refresh=False)

"""Which policies act on the same thing in the same epoch, without comparing each with each.

`acting_in`, `meetings`. A schedule may have thousands of policies, most of which act in different epochs.
"""

import heapq
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from compress.epoch_window import EpochWindow

MOST_TOLD = 3  # meetings of one policy with earlier ones


class _Windowed(Protocol):
    @property
    def window(self) -> EpochWindow: ...


W = TypeVar("W", bound=_Windowed)
K = TypeVar("K", bound=Hashable)


def acting_in(policies: Sequence[W], epochs: int) -> Iterator[list[W]]:
    """For each of the epochs 0 to `epochs` - 1 the policies that fire in it, in their order."""
    # A sweep over the epochs: the last of `waiting` begins next, `active` holds those whose window is open.
    waiting = sorted(range(len(policies)), key=lambda i: policies[i].window.first, reverse=True)
    active: list[int] = []
    for epoch in range(epochs):
        if any(policies[i].window.last < epoch for i in active):
            active = [i for i in active if policies[i].window.last >= epoch]
        if waiting and policies[waiting[-1]].window.first <= epoch:
            while waiting and policies[waiting[-1]].window.first <= epoch:
                active.append(waiting.pop())
            active.sort()
        yield [policies[i] for i in active if policies[i].window.fires(epoch)]


def meetings(windows: Sequence[EpochWindow], keys: Mapping[K, Sequence[int]]) -> list[tuple[int, int, K, int]]:
    """Pairs that act on one thing in one epoch: (earlier, later, thing, epoch), places in `windows`, by the later one.

    Args:
        windows: of each policy, in the order of the schedule.
        keys: thing -> places of the policies that act on it.

    Returns:
        Each pair once; for one policy at most `MOST_TOLD`.
    """
    found: dict[tuple[int, int], tuple[int, int, K, int]] = {}
    told = [0] * len(windows)
    for key, places in keys.items():
        ending: list[tuple[int, int]] = []
        active: dict[int, None] = {}
        for place in sorted(places, key=lambda i: (windows[i].first, i)):
            # A sweep by first epochs: what has ended before this window begins can meet neither it nor any later one.
            while ending and ending[0][0] < windows[place].first:
                active.pop(heapq.heappop(ending)[1], None)
            for other in active:
                earlier, later = min(place, other), max(place, other)
                if told[place] >= MOST_TOLD and later == place:
                    break
                if told[later] < MOST_TOLD and (earlier, later) not in found:
                    epoch = windows[place].meets(windows[other])
                    if epoch is not None:
                        found[earlier, later] = earlier, later, key, epoch
                        told[later] += 1
            active[place] = None
            heapq.heappush(ending, (windows[place].last, place))
    return sorted(found.values(), key=lambda each: (each[1], each[0]))

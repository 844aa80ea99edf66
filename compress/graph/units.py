"""Removal units: which channel positions stand or fall together.

`Units`, a union-find over integers. Every channel position of every parameter starts as a unit of its own; each
operation that makes two positions depend on each other ties their units; a position that cannot be removed pins its
unit. Called by `coupling.py`.

    units = Units()
    a, b = units.fresh(3), units.fresh(3)       # two tensors of three channels: ids 0 1 2 and 3 4 5
    units.tie(a, b)                             # an addition: classes {0,3} {1,4} {2,5}
    units.pin(b[:1], "network output")          # pins 3, and so 0
    units.roots(a)                              # array([0, 1, 2])
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
FEW = 8
"""Up to this many pairs are merged one by one; the checks of the vectorized way cost more."""


class Units:
    """Disjoint classes of unit ids, and the reasons why some of them must stay."""

    def __init__(self) -> None:
        self._parent: Ids = np.arange(1024, dtype=np.int64)
        self._count = 0
        self._pins: list[tuple[Ids, str]] = []

    @property
    def count(self) -> int:
        """How many ids there are."""
        return self._count

    def fresh(self, count: int) -> Ids:
        """New ids, each in a class of its own; shape (count,)."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            grown = np.arange(2 * self._count, dtype=np.int64)
            grown[: len(self._parent)] = self._parent
            self._parent = grown
        return np.arange(start, self._count, dtype=np.int64)

    def roots(self, ids: Ids) -> Ids:
        """The representative of each id's class; same shape as `ids`."""
        found = self._parent[ids]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        # Path compression: the next look-up of these ids takes one step.
        self._parent[ids] = found
        return found

    def tie(self, left: Ids, right: Ids) -> None:
        """Merge the classes of `left` and `right`, position by position; the arrays broadcast."""
        if left is right:
            return
        one, other = np.broadcast_arrays(self.roots(left), self.roots(right))
        differ = one != other
        low, high = np.minimum(one, other)[differ], np.maximum(one, other)[differ]
        # A parent is always the lower id, so that chains descend and never close. One assignment does all pairs at once
        # only where no root gets two parents (0-2 and 1-2: the last would win, and the tie of 0 would be lost). That no
        # parent moves itself keeps the chains short.
        if len(high) > FEW and len(np.unique(high)) == len(high) and not np.isin(low, high).any():
            self._parent[high] = low
            return
        for a, b in zip(low.tolist(), high.tolist(), strict=True):
            self._union(a, b)

    def tie_along(self, ids: Ids, axis: int) -> Ids:
        """Merge all ids along one axis of an array; gives back what is left: the array without that axis."""
        first = np.take(ids, 0, axis=axis)
        self.tie(np.expand_dims(first, axis), ids)
        return np.asarray(first)

    def pin(self, ids: Ids | None, reason: str) -> None:
        """These must stay. An empty reason pins without being reported (the size of a kernel, say)."""
        if ids is not None and ids.size:
            self._pins.append((ids.ravel(), reason))

    def pinned(self) -> dict[int, list[str]]:
        """Root -> the distinct reasons why its class must stay."""
        reasons: dict[int, list[str]] = {}
        for ids, reason in self._pins:
            for root in np.unique(self.roots(ids)).tolist():
                known = reasons.setdefault(root, [])
                if reason and reason not in known:
                    known.append(reason)
        return reasons

    def _union(self, a: int, b: int) -> None:
        while self._parent[a] != a:
            a = int(self._parent[a])
        while self._parent[b] != b:
            b = int(self._parent[b])
        low, high = min(a, b), max(a, b)
        self._parent[high] = low

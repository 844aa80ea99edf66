"""How many units pruners will mask, counted ahead: what a plan shows, without weights to rank.

`ExpectedUnits`, and `Demand`, what one pruner asks for. Called by `compress/plan.py`.

    a Conv2d(3, 24, 1) whose output is split in halves that are multiplied has 12 units of 2 rows; level 0.4:
    floor(0.4 * 12) = 4 units, so 8 of 24 rows: 33.3 %; counted in rows it would have been 9 of 24, 37.5 %
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.thinning.ranking import Vote, voters


@dataclass(frozen=True)
class Demand:
    """What a pruner asks for in an epoch.

    Attributes:
        votes: on what, with which level; their scores are not read.
        count: level and number of units of a group -> how many of them go.
    """

    votes: Sequence[Vote]
    count: Callable[[float, int], int]


class ExpectedUnits:
    """How many units of each group are masked, and how many have left, epoch by epoch.

    Args:
        graph: of the network before the first epoch.

    Attributes:
        named: weights that demands have named; what is said of others is not for this class to say.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.named: set[str] = set()
        self._groups = {group.name: group for group in graph.groups()}
        self._masked = dict.fromkeys(self._groups, 0)
        self._left = {name: group.units for name, group in self._groups.items()}
        self._only: dict[str, set[Place]] = {}  # pinned group -> the places masked in it: nothing goes along there
        self._of: dict[str, list[tuple[ChannelGroup, int]]] = {}
        for group in self._groups.values():
            for name, dim in group.members:
                self._of.setdefault(name, []).append((group, dim))
        self._kept = dict.fromkeys(self._of, 1.0)

    def take(self, demand: Demand) -> None:
        """Counts what a demand masks; the level of the first vote on a group is the group's."""
        for group in self._groups.values():
            own = voters(group, demand.votes)
            if own:
                self.named.update(vote.name for vote in own)
                self._masked[group.name] = demand.count(own[0].level, self._left[group.name])
                self._only.setdefault(group.name, set()).update((vote.name, vote.dim) for vote in own)

    def zeros(self, name: str, leaving: bool = False) -> float:
        """Fraction of a weight that is masked, [0, 1]; `leaving`: only what can leave the network.

        Rows and columns that are masked meet, and so do heads and positions within them.
        """
        shares: dict[tuple[int, bool], float] = {}
        for group, dim in self._of.get(name, []):
            alone = bool(group.pinned)
            if self._masked[group.name] and not (alone and (leaving or (name, dim) not in self._only[group.name])):
                key = dim, group.within_heads
                shares[key] = shares.get(key, 0.0) + self._masked[group.name] * self._part(group, (name, dim))
        return 1.0 - float(np.prod([1.0 - share for share in shares.values()]))

    def thin(self) -> dict[str, float]:
        """What is masked and can leave has left; named weight -> fraction of its elements that have left by now."""
        self._kept = {name: kept * (1.0 - self.zeros(name, leaving=True)) for name, kept in self._kept.items()}
        for name, group in self._groups.items():
            if not group.pinned:
                self._left[name] -= self._masked[name]
                self._masked[name] = 0
        return {name: 1.0 - kept for name, kept in self._kept.items() if kept < 1.0 and name in self.named}

    def _part(self, group: ChannelGroup, place: Place) -> float:
        """What one unit has of a dimension as it is now."""
        unit_of = group.members[place]
        each = int((unit_of >= 0).sum()) / group.units
        gone = sum(
            (other.units - self._left[other.name]) * int((other.members[place] >= 0).sum()) / other.units
            for other, dim in self._of[place[0]]
            if dim == place[1] and other.within_heads == group.within_heads
        )
        return each / (len(unit_of) - gone)

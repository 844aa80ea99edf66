"""Which filters and channels thinning has taken out, by their numbers in the dense network.

Here: the recipes of a checkpoint, composed. Not here: why a pruner chose them; a checkpoint names the pruner and when
it acted, not each group's importance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SIDES = {0: "first dimension (filters)", 1: "second dimension (channels)"}


def removed_units(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a weight's dimension that lost something: weight, dimension, before, now, removed (numbers).

    A second recipe counts positions in the network that the first one left; here they are those of the dense network.

    >>> removed_units([{"kept": {"a.weight": {0: [0, 2, 3]}}, "sizes": {"a.weight": {0: 4}}},
    ...                {"kept": {"a.weight": {0: [1, 2]}}, "sizes": {"a.weight": {0: 3}}}])[0]["removed"]
    [0, 1]
    """
    alive: dict[tuple[str, int], list[int]] = {}
    before: dict[tuple[str, int], int] = {}
    for recipe in recipes:
        for name, dims in recipe["kept"].items():
            for dim, positions in dims.items():
                place = (name, int(dim))
                size = int(recipe["sizes"][name][dim])
                before.setdefault(place, size)
                old = alive.get(place, list(range(size)))
                alive[place] = [old[int(position)] for position in positions]
    rows = []
    for (name, dim), left in alive.items():
        if not name.endswith("weight") or len(left) == before[name, dim]:
            continue
        gone = sorted(set(range(before[name, dim])) - set(left))
        rows.append({"weight": name, "dimension": dim, "before": before[name, dim], "now": len(left), "removed": gone})
    return rows

"""Which filters and channels thinning has taken out, and why.

The recipes of a checkpoint, composed, and why units went as far as the recipes keep it.
"""

from collections.abc import Mapping, Sequence
from typing import Any


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


def reasons_of_removal(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a group and thinning, as far as the recipes keep it: older checkpoints do not.

    Returns:
        group, epoch (of the ranking), units (before), removed (unit numbers), scores (importance of each unit),
        threshold, highest_removed and lowest_kept (importances; None if none is kept).
    """
    rows = []
    for recipe in recipes:
        for group, each in recipe.get("reasons", {}).items():
            scores, gone = [float(score) for score in each["scores"]], {int(unit) for unit in each["removed"]}
            kept = [score for unit, score in enumerate(scores) if unit not in gone]
            rows.append({
                "group": group, "epoch": int(each["epoch"]), "units": len(scores), "removed": sorted(gone),
                "scores": scores, "threshold": float(each["threshold"]),
                "highest_removed": max(scores[unit] for unit in gone), "lowest_kept": min(kept, default=None),
            })  # fmt: skip
    return rows


def unexplained(recipes: Sequence[Mapping[str, Any]]) -> int:
    """How many thinnings came without any reason; what fuses blocks removes no unit."""
    return sum(not recipe.get("reasons") for recipe in recipes if not recipe.get("fused"))

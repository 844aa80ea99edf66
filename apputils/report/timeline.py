"""What acted when: the policies of a resolved schedule, as plain data."""

from collections.abc import Mapping
from typing import Any

FAMILIES = {
    "pruner": "pruners",
    "regularizer": "regularizers",
    "quantizer": "quantizers",
    "distiller": "distillers",
    "lr_scheduler": "lr_schedulers",
    "extension": "extensions",
}


def policies_of(schedule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a policy, in the schedule's order: name, family, class, and the epochs in which it fires."""
    rows = []
    for policy in schedule.get("policies", []):
        family = next((name for name in FAMILIES if name in policy), None)
        if family is None:
            continue
        name = policy[family]["instance_name"]
        settings = schedule.get(FAMILIES[family], {}).get(name, {})
        rows.append({"name": name, "family": family, "class": settings.get("class", "?"), "epochs": _epochs(policy)})
    return rows


def runs_of(epochs: list[int]) -> list[tuple[int, int]]:
    """Neighbouring epochs joined: [0, 1, 2, 5] -> [(0, 3), (5, 6)], ends exclusive."""
    found: list[tuple[int, int]] = []
    for epoch in epochs:
        if found and found[-1][1] == epoch:
            found[-1] = (found[-1][0], epoch + 1)
        else:
            found.append((epoch, epoch + 1))
    return found


def _epochs(policy: Mapping[str, Any]) -> list[int]:
    if "epochs" in policy:
        return sorted(policy["epochs"])
    return list(range(policy.get("starting_epoch", 0), policy["ending_epoch"], policy.get("frequency", 1)))

"""Why units went: the importance of each unit of a group, and what it was compared with.

That as small plain data, noted by structured pruners when they choose, and kept beside the recipe when the network is
thinned.

    {"conv1.weight[0]": {"epoch": 3, "scores": tensor([0.9, 0.1, 0.7]), "threshold": 0.1, "removed": [1]}}

Units are counted in the network as it was when they were ranked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.thinning.ranking import Ranked

Reasons = dict[str, dict[str, Any]]


def reasons_of(ranked: Ranked, epoch: int) -> Reasons:
    """The importances of the groups that lose units; those whose ranking knows none are left out.

    Args:
        ranked: what was chosen.
        epoch: in which it was, counted from 0.

    Returns:
        group -> epoch, scores (float tensor, shape (units,)), and threshold: the number that scores were compared with,
        or where a number of units was asked for, the largest importance among those that went.
    """
    found = {}
    for group, units in ranked.removed.items():
        if group in ranked.scores:
            scores = ranked.scores[group].float().cpu()
            threshold = float(scores[units].max()) if ranked.threshold is None else ranked.threshold
            found[group] = {"epoch": epoch, "scores": scores, "threshold": threshold}
    return found


def reasons_for(removed: Mapping[str, Sequence[int]], reasons: Reasons) -> Reasons:
    """What is known of the groups that a thinning takes units from, with the units; the others have no entry."""
    return {group: {**reasons[group], "removed": list(units)} for group, units in removed.items() if group in reasons}

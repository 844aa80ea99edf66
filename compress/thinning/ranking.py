"""From importances of single weights to the units of whole groups that are masked.

Here: `rank_groups`. Weights that a schedule names vote on the units of their group; each vote is normalised, so
that a large layer does not outvote a small one; members that nobody named go with the rest and are listed.
Not here: how important a filter is (`compress.criteria`, the pruners) and the removal (`thin.py`). Called by
structured pruners.

    Group {a.weight rows, b.weight rows, c.weight columns} of 3 units. Votes, level 0.4:
    a.weight [1, 2, 3] -> normalised [0.5, 1.0, 1.5];  b.weight [30, 10, 20] -> [1.5, 0.5, 1.0]
    mean [1.0, 0.75, 1.25]; floor(0.4 * 3) = 1 unit goes: unit 1. Combined by `first`, unit 0 would go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.thinning.complete import masks_of


@dataclass(frozen=True, eq=False)
class Vote:
    """What one named weight says.

    Attributes:
        name: canonical name of the parameter.
        dim: the dimension whose positions are ranked: 0 for the filters of a convolution, 1 for its channels.
        scores: importance of each position, shape (size of that dimension,); the least important go first.
        level: fraction of the units that should be masked, [0, 1).
    """

    name: str
    dim: int
    scores: Tensor
    level: float


@dataclass(frozen=True)
class Ranked:
    """What the votes come to.

    Attributes:
        masks: parameter name -> bool, True = kept, over every parameter of the groups that lose units.
        removed: group name -> its units that are masked, in order.
        unnamed: group name -> parameters that are masked although no vote names them.
        notes: what could not be done as asked (pinned groups), one sentence each.
    """

    masks: dict[str, Tensor]
    removed: dict[str, list[int]]
    unnamed: dict[str, list[str]]
    notes: tuple[str, ...]


def rank_groups(
    graph: ChannelGraph,
    model: nn.Module,
    votes: Sequence[Vote],
    combine: str = "mean",
    round_to: int = 1,
    max_sparsity: float = 1.0,
) -> Ranked:
    """Choose the least important units of every group that a vote names.

    Args:
        graph: from `prunable_graph`.
        model: gives the shapes of the masks.
        votes: one per named weight.
        combine: `mean` of the normalised votes, or `first`: the vote that comes first decides.
        round_to: what is left of a group is rounded up to a multiple of this; 1 rounds nothing.
        max_sparsity: at most this fraction of a group is masked, (0, 1]; one unit is left in any case.

    Raises:
        UserError: votes on one group differ in their level, or a vote names a place that the graph does not know.
    """
    removed: dict[str, list[int]] = {}
    unnamed: dict[str, list[str]] = {}
    notes: list[str] = []
    _check_places(graph, votes)
    for group in graph.groups():
        own = [vote for vote in votes if (vote.name, vote.dim) in group.members]
        if not own:
            continue
        count = _count(group, _level(group, own), round_to, max_sparsity)
        if group.pinned:
            notes.append(f"{group.name}: {group.units} units stay: {'; '.join(group.pinned)}")
        elif count:
            scores = _combined(group, own[:1] if combine == "first" else own)
            removed[group.name] = sorted(np.argsort(scores, kind="stable")[:count].tolist())
            named = {vote.name for vote in own}
            members = dict.fromkeys(name for name, _ in group.members if name in graph.parameters)
            unnamed[group.name] = [name for name in members if name not in named]
    masks = masks_of(graph, removed, dict(model.named_parameters()))
    return Ranked(masks, removed, unnamed, tuple(notes))


def unit_scores(group: ChannelGroup, place: Place, scores: np.ndarray) -> np.ndarray:
    """Mean score of each unit's positions in one place, normalised to a mean of 1 over the group; shape (units,)."""
    unit_of = group.members[place]
    inside = unit_of >= 0
    sums = np.bincount(unit_of[inside], weights=scores[inside], minlength=group.units)
    means = sums / np.bincount(unit_of[inside], minlength=group.units)
    scale = np.abs(means).mean()
    return np.asarray(means / scale if scale > 0 else means)


def _combined(group: ChannelGroup, votes: Sequence[Vote]) -> np.ndarray:
    arrays = [vote.scores.detach().double().cpu().numpy() for vote in votes]
    pairs = zip(votes, arrays, strict=True)
    return np.asarray(np.mean([unit_scores(group, (v.name, v.dim), scores) for v, scores in pairs], axis=0))


def _count(group: ChannelGroup, level: float, round_to: int, max_sparsity: float) -> int:
    """How many units go; 1e-9 keeps 0.29 * 100 from being 28."""
    wanted = math.floor(min(level, max_sparsity) * group.units + 1e-9)
    left = math.ceil((group.units - wanted) / round_to) * round_to
    return max(0, min(group.units - left, group.units - 1))


def _level(group: ChannelGroup, votes: Sequence[Vote]) -> float:
    levels = {vote.level for vote in votes}
    if len(levels) > 1:
        listed = ", ".join(f"{vote.name} {vote.level:g}" for vote in votes)
        raise UserError(
            f"these weights are coupled, their channels go together, and they are given different levels: {listed}; "
            "give them one level, or name only one of them"
        )
    return levels.pop()


def _check_places(graph: ChannelGraph, votes: Sequence[Vote]) -> None:
    known = {place for group in graph.groups() for place in group.members}
    for vote in votes:
        if (vote.name, vote.dim) not in known:
            raise UserError(f"{vote.name}: dimension {vote.dim} has no channels that the model's graph knows of")

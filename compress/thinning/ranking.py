"""From importances of single weights to the units of whole groups that are masked.

`rank_groups`. Weights that a schedule names vote on the units of their group; each vote is normalised, so that a
large layer does not outvote a small one; members that nobody named go with the rest and are listed. Called by
structured pruners.

    Group {a.weight rows, b.weight rows, c.weight columns} of 3 units. Votes, level 0.4:
    a.weight [1, 2, 3] -> normalised [0.5, 1.0, 1.5];  b.weight [30, 10, 20] -> [1.5, 0.5, 1.0]
    mean [1.0, 0.75, 1.25]; floor(0.4 * 3) = 1 unit goes: unit 1. Combined by `first`, unit 0 would go.

Units of a pinned group cannot leave the network; there each vote masks its own weight, and a note says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.selectors import canonical_parameters
from compress.thinning.complete import gone_positions, masks_of


@dataclass(frozen=True, eq=False)
class Vote:
    """What one named weight says.

    Attributes:
        name: canonical name of the parameter.
        dim: the dimension whose positions are ranked: 0 for the filters of a convolution, 1 for its channels.
        scores: importance of each position, shape (size of that dimension,); the least important go first.
        level: fraction of the units that should be masked, [0, 1].
        within_heads: of an attention's projection: rank the same positions of every head (True), whole heads (False),
            or both (None).
    """

    name: str
    dim: int
    scores: Tensor
    level: float
    within_heads: bool | None = False


@dataclass(frozen=True)
class Ranked:
    """What the votes come to.

    Attributes:
        masks: parameter name -> bool, True = kept, over every parameter of the groups that lose units.
        removed: group name -> its units that are masked, in order.
        unnamed: group name -> parameters that are masked although no vote names them.
        notes: what could not be done as asked (pinned groups), one sentence each.
        scores: group name -> importance of each of its units, shape (units,); groups whose ranking knows none are
            left out.
        threshold: what importances were compared with, where it is one number; None where a fixed number of units went.
    """

    masks: dict[str, Tensor]
    removed: dict[str, list[int]]
    unnamed: dict[str, list[str]]
    notes: tuple[str, ...]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    threshold: float | None = None


KeepUnits = Callable[[Tensor, float], Tensor]
"""Scores of a group's units, shape (units,), and a level -> bool, True = kept."""


def rank_groups(
    graph: ChannelGraph,
    model: nn.Module,
    votes: Sequence[Vote],
    keep_units: KeepUnits,
    combine: Literal["mean", "first"] = "mean",
) -> Ranked:
    """Choose the least important units of every group that a vote names.

    Args:
        graph: from `prunable_graph`.
        model: gives the shapes of the masks.
        votes: one per named weight.
        keep_units: which units of a group stay, from their scores.
        combine: `mean` of the normalised votes, or `first`: the vote that comes first decides.

    Raises:
        UserError: votes on one group differ in their level (only for `mean`), or a vote names a place that the graph
            does not know.
    """
    _check_places(graph, votes)
    chosen: dict[str, np.ndarray] = {}
    scores: dict[str, Tensor] = {}
    for group in graph.groups():
        own = voters(group, votes)
        if own:
            level = own[0].level if combine == "first" else common_level(own)
            deciding = own[:1] if combine == "first" else own
            scores[group.name] = combined(group, deciding, normalise=len(deciding) > 1)
            keep = keep_units(scores[group.name], level)
            chosen[group.name] = np.flatnonzero(~keep.cpu().numpy())
    return replace(masks_of_units(graph, model, [(vote.name, vote.dim) for vote in votes], chosen), scores=scores)


def agreed_units(
    graph: ChannelGraph,
    model: nn.Module,
    kept: Mapping[Place, Tensor],
    scores: Mapping[Place, Tensor] | None = None,
) -> Ranked:
    """The units that all named weights of a group clear; what a weight clears alone is masked in it alone.

    Args:
        graph: from `prunable_graph`.
        model: gives the shapes of the masks.
        kept: place -> bool, shape (size of that dimension,), True = kept.
        scores: place -> the importances that `kept` was made of, same shape, in one unit for all places; a group's
            unit has the largest of its places', since that one decides.
    """
    chosen: dict[str, np.ndarray] = {}
    known: dict[str, Tensor] = {}
    for group in graph.groups():
        own = [place for place in group.members if place in kept]
        if own:
            cleared = [_cleared(group, place, kept[place].cpu().numpy()) for place in own]
            chosen[group.name] = np.flatnonzero(np.logical_and.reduce(cleared))
        if own and scores is not None and all(place in scores for place in own):
            largest = [_largest(group, place, scores[place].detach().double().cpu().numpy()) for place in own]
            known[group.name] = torch.from_numpy(np.maximum.reduce(largest))
    ranked = replace(masks_of_units(graph, model, list(kept), chosen), scores=known)
    parameters = dict(model.named_parameters())
    alone = {place: np.flatnonzero(~keep.cpu().numpy()) for place, keep in kept.items()}
    return replace(ranked, masks=masked_positions(alone, parameters, ranked.masks))


def masks_of_units(
    graph: ChannelGraph, model: nn.Module, named: Sequence[Place], chosen: Mapping[str, np.ndarray]
) -> Ranked:
    """The masks of chosen units: of whole units where they can go, of the named weights alone where they are pinned."""
    parameters = dict(model.named_parameters())
    removed: dict[str, list[int]] = {}
    unnamed: dict[str, list[str]] = {}
    notes: list[str] = []
    alone: dict[Place, np.ndarray] = {}
    names = {name for name, _ in named}
    for group in graph.groups():
        units = chosen.get(group.name, np.empty(0, int)).tolist()
        if not units:
            continue
        if group.pinned:
            positions = gone_positions(group, units)
            here = [place for place in positions if place in named]
            for place in here:
                alone[place] = np.concatenate([alone.get(place, np.empty(0, int)), positions[place]])
            which = ", ".join(name for name, _ in here)
            notes.append(f"{which}: masked in place, they cannot leave the network: {'; '.join(group.pinned)}")
            continue
        removed[group.name] = units
        members = dict.fromkeys(name for name, _ in group.members if name in graph.parameters)
        unnamed[group.name] = [name for name in members if name not in names]
    masks = masks_of(graph, removed, parameters)
    masks = masked_positions(alone, parameters, masks)
    known = canonical_parameters(model)  # a part of it may be wrapped
    for name in sorted(names - set(masks)):  # nothing of it goes
        masks[name] = torch.ones_like(known[name], dtype=torch.bool)
    return Ranked(masks, removed, unnamed, tuple(notes))


def masked_positions(
    gone: Mapping[Place, np.ndarray], parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The masks with single positions of places masked as well."""
    found = dict(masks)
    for (name, dim), positions in gone.items():
        if name not in found:
            found[name] = torch.ones_like(parameters[name], dtype=torch.bool)
        found[name].index_fill_(dim, torch.as_tensor(positions, device=found[name].device), False)
    return found


def voters(group: ChannelGroup, votes: Sequence[Vote]) -> list[Vote]:
    """The votes on a group, in their order."""
    return [
        vote
        for vote in votes
        if (vote.name, vote.dim) in group.members and vote.within_heads in (None, group.within_heads)
    ]


def unit_scores(group: ChannelGroup, place: Place, scores: np.ndarray) -> np.ndarray:
    """Mean score of each unit's positions in one place, shape (units,)."""
    unit_of = group.members[place]
    inside = unit_of >= 0
    sums = np.bincount(unit_of[inside], weights=scores[inside], minlength=group.units)
    return np.asarray(sums / np.bincount(unit_of[inside], minlength=group.units))


def _largest(group: ChannelGroup, place: Place, scores: np.ndarray) -> np.ndarray:
    """Largest score of each unit's positions in one place, shape (units,)."""
    unit_of = group.members[place]
    found = np.full(group.units, -np.inf)
    np.maximum.at(found, unit_of[unit_of >= 0], scores[unit_of >= 0])
    return found


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores divided by the mean of their absolute values."""
    scale = np.abs(scores).mean()
    # Layers differ in the size of their weights: without this the largest ones would decide for a whole group.
    return np.asarray(scores / scale if scale > 0 else scores)


def common_level(votes: Sequence[Vote]) -> float:
    """The level that coupled weights share.

    Raises:
        UserError: they differ; each is named.
    """
    levels = {vote.level for vote in votes}
    if len(levels) > 1:
        raise UserError(differing_levels({vote.name: vote.level for vote in votes}))
    return levels.pop()


def differing_levels(levels: Mapping[str, float]) -> str:
    """What is wrong with coupled weights that have different levels, in words."""
    listed = ", ".join(f"{name} {level:g}" for name, level in levels.items())
    return (
        f"these weights are coupled, their channels go together, and they are given different levels: {listed}; "
        "give them one level, or name only one of them"
    )


def combined(group: ChannelGroup, votes: Sequence[Vote], normalise: bool = True) -> Tensor:
    """The mean over the votes of the scores of a group's units, shape (units,), normalised or as they are."""
    scores = [unit_scores(group, (v.name, v.dim), v.scores.detach().double().cpu().numpy()) for v in votes]
    return torch.from_numpy(np.mean([normalised(each) for each in scores] if normalise else scores, axis=0))


def _cleared(group: ChannelGroup, place: Place, kept: np.ndarray) -> np.ndarray:
    """For each unit whether none of its positions in a place is kept."""
    unit_of = group.members[place]
    cleared = np.ones(group.units, dtype=bool)
    cleared[unit_of[(unit_of >= 0) & kept]] = False
    return cleared


def _check_places(graph: ChannelGraph, votes: Sequence[Vote]) -> None:
    for vote in votes:
        if (vote.name, vote.dim) not in graph.places:
            raise UserError(f"{vote.name}: dimension {vote.dim} has no channels that the model's graph knows of")
        if vote.within_heads and not any(g.within_heads for g in graph.groups_of(vote.name, vote.dim)):
            raise UserError(no_head_dims(vote.name, vote.dim))


def no_head_dims(name: str, dim: int) -> str:
    """What is wrong with HeadDims of a weight that has none that could leave, in words."""
    return (
        f"{name}: HeadDims are positions within the heads of an attention, and the model's graph finds none in "
        f"dimension {dim} of it that could be ranked by themselves; Filters takes its units as the graph lists them, "
        "whole heads in an attention"
    )


NEVER_READ = "the network does not read it when it runs on the example inputs"
NO_CHANNELS = "its positions there count no channels"


def staying(places: Mapping[str, Place], graph: ChannelGraph) -> dict[str, str]:
    """Those of the weights of which nothing can leave the network, and why."""
    pinned, own, read = {}, set(places.values()), {name for name, _ in graph.places}
    found: dict[Place, list[ChannelGroup]] = {}
    for group in graph.groups():
        for place in own & group.members.keys():
            found.setdefault(place, []).append(group)
    for name, place in places.items():
        groups = found.get(place, [])
        if all(group.pinned for group in groups):
            reasons = dict.fromkeys(reason for group in groups for reason in group.pinned)
            pinned[name] = "; ".join(reasons) or (NO_CHANNELS if name in read else NEVER_READ)
    return pinned


def by_reason(kept: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> the weights that stay for it."""
    found: dict[str, list[str]] = {}
    for name, reason in kept.items():
        found.setdefault(reason, []).append(name)
    return found

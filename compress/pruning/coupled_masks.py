"""What goes together with a group: the one place where a structured mask grows beyond its own weight.

From votes or decisions on filters and channels to the masks of whole coupled units, by the network's graph. Not
here: importances and numbers (the pruners), the graph and the choice within a group (`compress/thinning/ranking.py`).
Called by every structured pruner.

Without a graph (no example inputs, or a network that cannot be traced) each weight is masked alone, which is logged.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from compress.context import StepContext
from compress.errors import UserError
from compress.graph.channels import ChannelGraph, Place
from compress.groups import COUPLED, Tile
from compress.thinning.ranking import KeepUnits, Ranked, Vote, agreed_units, rank_groups
from compress.thinning.reasons import reasons_of

Combine = Literal["mean", "first"]


def channel_dim(group: str, shape: Sequence[int], tile: Tile) -> int | None:
    """The dimension whose positions the groups are: 0 for filters, 1 for channels; None for rows, kernels, blocks.

    The kind of group decides, not its tile alone: a row of a linear layer has the tile of a channel, a kernel of a
    depthwise convolution that of a filter, and both go alone.

    Example: the tile (1, 4, 3, 3) of `Filters` of a weight (8, 4, 3, 3) has its groups along dimension 0.
    """
    if group not in COUPLED:
        return None
    cut = [dim for dim, (size, edge) in enumerate(zip(shape, tile, strict=True)) if edge < size]
    if not cut:
        cut = [0] if shape and shape[0] == 1 else []
    return cut[0] if len(cut) == 1 and tile[cut[0]] == 1 else None


def graph_for(ctx: StepContext, places: Sequence[Place]) -> ChannelGraph | None:
    """The network's graph, if there is one that knows at least one of these places; else the reason is logged."""
    if ctx.graph is None or not places:
        return None
    try:
        graph = ctx.graph.get()
    except UserError as e:
        ctx.graph.watch()
        names = ", ".join(name for name, _ in places)
        ctx.graph.tell_once(f"{names}: each is masked by itself, without what is coupled to it: {e}")
        return None
    return graph if known(graph, places) else None


def known(graph: ChannelGraph, places: Sequence[Place]) -> list[Place]:
    """Those of the places that the graph has channels for."""
    return [place for place in places if place in graph.places]


def ranked_masks(
    ctx: StepContext, graph: ChannelGraph, votes: Sequence[Vote], keep_units: KeepUnits, combine: Combine
) -> dict[str, Tensor]:
    """The masks of whole units that votes choose: parameter name -> bool mask."""
    assert ctx.graph is not None
    return told(ctx, rank_groups(graph, ctx.graph.network, votes, keep_units, combine))


def agreed_masks(
    ctx: StepContext,
    kept: Mapping[Place, Tensor],
    scores: Mapping[Place, Tensor] | None = None,
    threshold: float | None = None,
) -> dict[str, Tensor]:
    """The masks of what weights clear, and of the whole coupled units on which all of them agree.

    Args:
        ctx: the moment.
        kept: place of each named weight -> bool, shape (size of that dimension,), True = kept.
        scores: the same places -> importances; for the report of why a unit went.
        threshold: at or below which an importance means that the position goes, where it is one number.
    """
    graph = graph_for(ctx, list(kept))
    coupled = known(graph, list(kept)) if graph is not None else []
    found = {place[0]: along(ctx, place, keep) for place, keep in kept.items() if place not in coupled}
    if graph is not None and coupled:
        assert ctx.graph is not None
        agreed = agreed_units(graph, ctx.graph.network, {place: kept[place] for place in coupled}, scores)
        found.update(told(ctx, replace(agreed, threshold=threshold)))
    return found


def along(ctx: StepContext, place: Place, keep: Tensor) -> Tensor:
    """One value a position of a dimension -> a mask of the parameter's shape."""
    name, dim = place
    shape = ctx.masks[name].parameter.shape
    return keep.reshape([-1 if each == dim else 1 for each in range(len(shape))]).expand(shape).contiguous()


def told(ctx: StepContext, ranked: Ranked) -> dict[str, Tensor]:
    """The masks, on the parameters' devices; what could not be done and what is masked along is logged once.

    Why units went is kept with the graph until the network is thinned (`compress/thinning/reasons.py`).
    """
    assert ctx.graph is not None
    ctx.graph.reasons.update(reasons_of(ranked, ctx.epoch))
    for note in ranked.notes:
        ctx.graph.tell_once(note)
    along = dict.fromkeys(name for names in ranked.unnamed.values() for name in names)
    if along:
        ctx.graph.tell_once(f"masked along, as they are coupled: {', '.join(along)}", logging.INFO)
    device = {name: masker.parameter.device for name, masker in ctx.masks.items()}
    return {name: mask.to(device.get(name, torch.device("cpu"))) for name, mask in ranked.masks.items()}

"""Checks of structured pruners against the network's graph: coupled weights must agree.

Differing levels inside one coupled group, two instances that prune one group in one epoch, and weights of which
nothing can leave. The network is traced only for schedules with structured pruners.
"""

from collections.abc import Mapping, Sequence

from compress.arguments.places import Path
from compress.config.errors.faults import Report
from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.policies.base import Policy
from compress.policies.overlaps import meetings
from compress.policies.pruning import PruningPolicy
from compress.policies.thinning import ThinningPolicy
from compress.pruning.coupled_masks import channel_dim
from compress.pruning.network_wide.global_groups import GlobalRankedGroupPruner
from compress.pruning.network_wide.second_order import SecondOrderGroupPruner
from compress.pruning.structure import WITHIN_HEADS, StructurePruner
from compress.selectors import canonical_parameters
from compress.thinning.current import CurrentGraph
from compress.thinning.ranking import by_reason, differing_levels, no_head_dims, staying

Entry = tuple[Path, PruningPolicy, dict[str, Place]]


def check_coupling(entries: list[tuple[Path, Policy]], graph: CurrentGraph, report: Report) -> None:
    """Adds a fault for each group of coupled weights whose levels differ, and warns where two instances meet in one."""
    structured = [
        (path, policy, _places(policy.pruner, graph))
        for path, policy in entries
        if isinstance(policy, PruningPolicy) and isinstance(policy.pruner, StructurePruner)
    ]
    disputed = [entry for entry in structured if _may_differ(entry)]
    ranked = [
        (path, policy, policy.pruner.places(graph.model))
        for path, policy in entries
        if isinstance(policy, PruningPolicy) and isinstance(policy.pruner, GlobalRankedGroupPruner)
    ]
    if graph.inputs is None or not any(places for _, _, places in structured + ranked):
        return
    try:
        known = graph.get()
    except UserError as e:
        # Each weight is then masked by itself; the pruner says so when it asks, and a remover refuses.
        for path, _, _ in structured + ranked:
            report.add(f"the network's graph is not known: {e}", path, fatal=False)
        return
    inexact = any(isinstance(each, ThinningPolicy) and each.remover.allow_inexact for _, each in entries)
    for path, policy, places in structured:
        _check_head_dims(policy, path, places, known, report)
        _check_pinned(policy, path, places, graph.get(inexact) if inexact else known, report)
    for path, policy, places in ranked:  # what it masks is chosen in the graph without inexact removals
        _check_unrankable(policy, path, places, known, report)
        if isinstance(policy.pruner, SecondOrderGroupPruner) and policy.pruner.sparsities:
            _check_one_fraction(policy.pruner.sparsities, path, places, known, report)
    groups = known.groups()
    for path, policy, places in disputed:
        targets, told = policy.pruner.targets, set()  # type: ignore[attr-defined]
        for number, names in _by_group(places, groups).items():
            within = groups[number].within_heads
            levels = _differing(policy, [name for name in names if (targets[name].group == WITHIN_HEADS) == within])
            if levels and tuple(levels) not in told:
                told.add(tuple(levels))
                report.add(differing_levels(levels), path)
    _warn_of_meetings(structured, [group for group in groups if not group.pinned], report)


def _by_group(places: dict[str, Place], groups: Sequence[ChannelGroup]) -> dict[int, list[str]]:
    """Number of a group -> the weights in it; after a concatenation a weight may be in several."""
    found = {
        number: [name for name, place in places.items() if place in group.members]
        for number, group in enumerate(groups)
    }
    return {number: names for number, names in found.items() if names}


def _warn_of_meetings(structured: list[Entry], groups: Sequence[ChannelGroup], report: Report) -> None:
    named = [_by_group(places, groups) for _, _, places in structured]
    by_group: dict[int, list[int]] = {}
    for i, found in enumerate(named):
        for number in found:
            by_group.setdefault(number, []).append(i)
    for earlier, later, number, epoch in meetings([policy.window for _, policy, _ in structured], by_group):
        (_, first, ours), (path, second, theirs) = structured[earlier], structured[later]
        if first.name != second.name and not set(ours) & set(theirs):
            report.add(
                f"{named[later][number][0]!r} is coupled to {named[earlier][number][0]!r}, which {first.name!r} prunes "
                f"in epoch {epoch} too: their channels go together, so more of them go than either asks for; name both "
                "in one instance",
                path,
                fatal=False,
            )


def _check_head_dims(
    policy: PruningPolicy, path: Path, places: dict[str, Place], graph: ChannelGraph, report: Report
) -> None:
    """Adds a fault for each weight whose HeadDims the graph does not know."""
    targets = policy.pruner.targets  # type: ignore[attr-defined]
    for name, place in places.items():
        if targets[name].group == WITHIN_HEADS and not any(g.within_heads for g in graph.groups_of(*place)):
            report.add(no_head_dims(*place), path)


def _check_pinned(
    policy: PruningPolicy, path: Path, places: dict[str, Place], graph: ChannelGraph, report: Report
) -> None:
    """Warns of named weights of which nothing can leave the network: zeros in them make nothing smaller."""
    for reason, names in by_reason(staying(places, graph)).items():
        what = "whole outputs of the network become zero" if "network output" in reason else "nothing becomes smaller"
        report.add(
            f"{', '.join(map(repr, names))}: what {policy.name!r} masks there cannot leave the network ({reason}), so "
            f"it is only zeroed in place, and {what}; leave {'it' if len(names) == 1 else 'them'} out of its weights",
            path,
            fatal=False,
        )


def _check_unrankable(
    policy: PruningPolicy, path: Path, places: dict[str, Place], graph: ChannelGraph, report: Report
) -> None:
    """Warns of named weights that give no unit to a budget."""
    kept = staying(places, graph)
    end = "the budget has to be met by the others" if len(kept) < len(places) else "it will prune nothing at all"
    for reason, names in by_reason(kept).items():
        report.add(
            f"{', '.join(map(repr, names))}: {policy.name!r} can take no filter there ({reason}), and {end}; "
            f"leave {'it' if len(names) == 1 else 'them'} out of its weights",
            path,
            fatal=False,
        )


def _check_one_fraction(
    sparsities: Mapping[str, float], path: Path, places: dict[str, Place], graph: ChannelGraph, report: Report
) -> None:
    """Adds a fault for each group whose weights are given different fractions."""
    for names in _by_group(places, graph.groups(prunable_only=True)).values():
        levels = {name: sparsities[name] for name in names}
        if len(set(levels.values())) > 1:
            report.add(differing_levels(levels), path)


def _places(pruner: StructurePruner, graph: CurrentGraph) -> dict[str, Place]:
    """Weight -> the dimension that the pruner ranks, for filters and channels."""
    parameters = canonical_parameters(graph.model)
    found = {}
    for name in pruner.weights:
        try:
            tile = pruner.tile(name, parameters[name], graph.model)
        except ValueError:
            continue  # reported by `faults`
        dim = channel_dim(pruner.kind(name), parameters[name].shape, tile)
        if dim is not None:
            found[name] = (name, dim)
    return found


def _may_differ(entry: Entry) -> bool:
    _, policy, places = entry
    return policy.pruner.combine == "mean" and bool(_differing(policy, list(places)))  # type: ignore[attr-defined]


def _differing(policy: PruningPolicy, names: list[str]) -> dict[str, float]:
    """The levels of these weights in the first firing epoch in which they are not all the same; {} if they are."""
    for epoch in policy.window.epochs:
        planned = policy.plan(epoch)
        levels = {name: planned[name] for name in names if name in planned}
        if len(set(levels.values())) > 1:
            return levels
    return {}

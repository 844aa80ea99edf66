"""A network's coupled channel groups, as text.

Here: `group_tables` of `--list-groups`. Not here: how they are found (`compress/graph`, `compress/thinning/probe.py`).
"""

from collections.abc import Iterable

from tabulate import tabulate

from compress.graph.channels import ChannelGraph, ChannelGroup, Place

SHOWN = 6  # members of a group; the rest is counted
HEADS = ["group", "units", "prunable", "parameters each", "MACs each", "members"]


def group_tables(graph: ChannelGraph) -> str:
    """Two tables: the groups that can lose units, with what goes along, and the pinned ones, with the reason.

    A unit is what leaves on its own: a filter with its bias, its norm and the columns of whatever reads it.
    """
    open_groups = graph.groups(prunable_only=True)
    pinned = [group for group in graph.groups() if not group.prunable]
    parts = [
        f"{len(open_groups)} groups can lose units. NAME[d] is dimension d of that tensor: [0] filters, [1] channels",
        "that are read. A schedule that names one weight of a group prunes the whole group.",
        tabulate([_row(group) for group in open_groups], HEADS, disable_numparse=True, maxcolwidths=[None] * 5 + [70]),
    ]
    if pinned:
        rows = [[group.name, group.units, "; ".join(group.pinned) or "a single unit"] for group in pinned]
        heads = ["group", "units", "why nothing of it can leave"]
        parts += ["", f"{len(pinned)} groups stay:", tabulate(rows, heads, maxcolwidths=[None, None, 90])]
    return "\n".join(parts)


def _row(group: ChannelGroup) -> list[str]:
    costs = (f"{group.parameters_per_unit:,.0f}", f"{group.macs_per_unit:,.0f}")
    return [group.name, str(group.units), str(group.prunable), *costs, _members(group.members)]


def _members(members: Iterable[Place]) -> str:
    names = [f"{name}[{dim}]" for name, dim in members]
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest

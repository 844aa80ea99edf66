"""A network's coupled channel groups, as text.

`group_tables` of `--list-groups`.
"""

from tabulate import tabulate

from compress.graph.channels import ChannelGraph, ChannelGroup

COSTS = ["parameters each", "MACs each", "members"]
WIDTHS = {"members": 70, "why nothing of it can leave": 90}  # of columns of words, which continue in further lines


def group_tables(graph: ChannelGraph) -> str:
    """Two tables: the groups that can lose units, with what goes along, and the pinned ones, with the reason.

    A unit is what leaves on its own: a filter with its bias, its norm and the columns of whatever reads it.
    """
    open_groups = graph.groups(prunable_only=True)
    pinned = [group for group in graph.groups() if not group.prunable]
    parts = [
        f"{len(open_groups)} groups can lose units. NAME[d] is dimension d of that tensor: [0] filters, [1] channels",
        "that are read. A schedule that names one weight of a group prunes the whole group.",
        _table(
            ["group", "units", "prunable", *COSTS], [[*_start(g), str(g.prunable), *_costs(g)] for g in open_groups]
        ),
    ]
    if pinned:
        rows = [[*_start(group), *_costs(group), group.why_kept] for group in pinned]
        heads = ["group", "units", *COSTS, "why nothing of it can leave"]
        parts += ["", f"{len(pinned)} groups stay:", _table(heads, rows)]
    return "\n".join([*parts, *(["", *graph.notes] if graph.notes else [])])


def _start(group: ChannelGroup) -> list[str]:
    return [group.name, str(group.units)]


def _costs(group: ChannelGroup) -> list[str]:
    members = ", ".join(f"{name}[{dim}]" for name, dim in group.members)
    return [f"{group.parameters_per_unit:,.0f}", f"{group.macs_per_unit:,.0f}", members]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, heads, disable_numparse=True, maxcolwidths=[WIDTHS.get(head) for head in heads])

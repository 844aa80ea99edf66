"""How the wild zoo's rows are summed up and printed; what a graph says about the parameters that can leave.

`shares` (of one graph), `row_line`, `print_tables`.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from compress.graph.channels import ChannelGraph

Row = dict[str, Any]


def shares(graph: ChannelGraph, model: nn.Module) -> Row:
    """The share of the parameters that no prunable unit covers, and the reasons, the largest first."""
    total = pinned = 0
    reasons: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        free = np.zeros(parameter.shape, dtype=bool)
        for dim, size in enumerate(parameter.shape):
            goes = np.zeros(size, dtype=bool)
            for group in graph.groups_of(name, dim):
                goes |= (group.members[name, dim] >= 0) & (group.prunable > 0)
            free |= goes.reshape([-1 if k == dim else 1 for k in range(parameter.dim())])
        stays = parameter.numel() - int(free.sum())
        total, pinned = total + parameter.numel(), pinned + stays
        if stays:
            why = [each for dim in range(parameter.dim()) for each in graph.why_pinned(name, dim)]
            for reason in {_kind(each) for each in why} or {"it is in no group"}:
                reasons[reason] += stays
    groups = graph.groups()
    return {
        "groups": len(groups),
        "prunable": len(graph.groups(prunable_only=True)),
        "pinned": pinned / max(total, 1),
        "reasons": [[reason, count / total] for reason, count in reasons.most_common(5)],
    }


def _kind(reason: str) -> str:
    """A reason without the names and sizes of one network: `no rule (foo in a.b)` -> `no rule (foo)`."""
    reason = re.sub(r" in (the model|[\w.]+)\)", ")", re.sub(r"'[\w.]+'", "'..'", reason))
    return re.sub(r"\d[\d.e+-]*", "#", reason)


def row_line(row: Row) -> str:
    """One line for a row."""
    head = f"{row['package'][:12]:<13}{row['network']:<32}{row['tool']:<14}{row['verdict']:<8}"
    figures = [
        f"pinned {row['pinned']:.0%}" if "pinned" in row else "",
        f"left {row['left']:.0%}" if "left" in row else "",
        f"graph {row['graph_s']:.1f} s" if "graph_s" in row else "",
        f"thin {row['thin_s']:.1f} s" if "thin_s" in row else "",
        f"batch {row['other_batch']:.0e}" if row.get("other_batch") is not None else "",
        f"size {row['other_size']:.0e}" if row.get("other_size") is not None else "",
        f"MACs {row['macs'] / max(row['flop_counter'], 1):.3f}" if "macs" in row else "",
        row.get("note", ""),
    ]
    return head + "  ".join(each for each in figures if each)


def print_tables(rows: Mapping[tuple[str, str, str], Row]) -> None:
    """Markdown: one line a package and tool, then every row that is not equal, then the largest reasons."""
    print("| package | tool | networks | equal | in part | refused | wrong | crash | pinned, median | graph s, worst |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for package, tool in dict.fromkeys((row["package"], row["tool"]) for row in rows.values()):
        own = [row for row in rows.values() if (row["package"], row["tool"]) == (package, tool)]
        count = Counter(row["verdict"] for row in own)
        pinned = [row["pinned"] for row in own if "pinned" in row]
        times = [row["graph_s"] for row in own if "graph_s" in row]
        verdicts = " | ".join(str(count[each]) for each in VERDICTS)
        ends = f"{statistics.median(pinned):.1%} | {max(times):.1f}" if pinned and times else " | "
        print(f"| {package} | {tool} | {len(own)} | {verdicts} | {ends} |")
    print()
    for row in rows.values():
        if row["tool"] == "ours" and (row["verdict"] != "equal" or row.get("pinned", 0) > 0.1):
            print(f"- {row_line(row)}")
            for reason, share in row.get("reasons", [])[:2]:
                print(f"    - {share:.0%} {reason}")

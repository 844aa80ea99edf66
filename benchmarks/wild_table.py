"""How the wild zoo's rows are summed up and printed; what a graph says about the parameters that can leave.

`shares` (of one graph), `row_line`, `print_tables`, `write_page`.
"""

from __future__ import annotations

import contextlib
import io
import re
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress.graph.calls import Unused
from compress.graph.channels import ChannelGraph

Row = dict[str, Any]
VERDICTS = ("equal", "in part", "refused", "wrong", "crash", "timeout")


def shares(graph: ChannelGraph, model: nn.Module, unused: Sequence[Unused] = ()) -> Row:
    """The share of the parameters that no prunable unit covers, and the reasons, the largest first.

    What is in no use counts neither here nor there.
    """
    total = pinned = 0
    reasons: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if any(each.covers(name) for each in unused):
            continue
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
    """Markdown: counts, pinned shares by kind, every row of ours that is not equal, then what keeps the most."""
    print("| package | tool | networks | equal | in part | refused | wrong | crash | timeout |")
    print("|---|---|---|---|---|---|---|---|---|")
    for package, tool in dict.fromkeys((row["package"], row["tool"]) for row in rows.values()):
        own = [row for row in rows.values() if (row["package"], row["tool"]) == (package, tool)]
        count = Counter(row["verdict"] for row in own)
        print(f"| {package} | {tool} | {len(own)} | {' | '.join(str(count[each]) for each in VERDICTS)} |")
    ours = [row for row in rows.values() if row["tool"] == "ours" and "pinned" in row]
    _print_kinds(ours)
    print("\nNot equal, or over 10 s of processor time:\n")
    for row in rows.values():
        slow = row.get("graph_s", 0) + row.get("thin_s", 0) > 10
        if row["tool"] == "ours" and (row["verdict"] != "equal" or slow):
            print(f"- {row_line(row)}")
    _print_reasons(ours)


MARK = "<!-- below: wild_zoo.py --page -->"


def write_page(page: Path, rows: Mapping[tuple[str, str, str], Row], missing: Mapping[str, Sequence[str]]) -> None:
    """Put the tables below the mark in a page; what stands above it is written by hand and stays.

    Raises:
        SystemExit: the page has no mark.
    """
    words, mark, _ = page.read_text().partition(MARK)
    if not mark:
        raise SystemExit(f"{page} has no line {MARK}, below which the tables belong")
    with io.StringIO() as text, contextlib.redirect_stdout(text):
        print_tables(rows)
        _print_both(rows)
        print("\nNot run:\n")
        for package, names in missing.items():
            print(f"- {package}: {', '.join(names) or 'none'}")
        print("\nRows by version (commit, day):\n")
        for version, count in Counter(row.get("version", "unknown") for row in rows.values()).most_common():
            print(f"- {version}: {count}")
        page.write_text(f"{words}{MARK}\n\n{text.getvalue()}")


def _print_both(rows: Mapping[tuple[str, str, str], Row]) -> None:
    """Both tools on the networks that both have tried."""
    print("\n| package | network | ours | Torch-Pruning | what it says, or what differs |")
    print("|---|---|---|---|---|")
    for (package, network, tool), row in rows.items():
        ours = rows.get((package, network, "ours"))
        if tool == "ours" or ours is None:
            continue
        worst = max((row[key] for key in ("other_batch", "other_size") if row.get(key) is not None), default=0.0)
        what = row.get("note") or (f"outputs differ by {worst:.0e}" if row["verdict"] == "wrong" else "")
        print(f"| {package} | {network} | {ours['verdict']} | {row['verdict']} | {what[:100].replace('|', '/')} |")


def _print_kinds(ours: list[Row]) -> None:
    print("\n| kind | networks | pinned, median | pinned, largest | graph s, median | thin s, median | GB, largest |")
    print("|---|---|---|---|---|---|---|")
    for package, attends in dict.fromkeys((row["package"], row["attends"]) for row in ours):
        own = [row for row in ours if (row["package"], row["attends"]) == (package, attends)]
        pinned, times, more = ([row[key] for row in own] for key in ("pinned", "graph_s", "thin_s"))
        kind = f"{package}, {'with' if attends else 'without'} attention"
        middle = f"{statistics.median(pinned):.0%} | {max(pinned):.0%} | {statistics.median(times):.1f}"
        print(f"| {kind} | {len(own)} | {middle} | {statistics.median(more):.1f} | {max(r['gb'] for r in own):.1f} |")


def _print_reasons(ours: list[Row]) -> None:
    """Each reason: in how many networks it keeps over a tenth of the parameters, and the median share there."""
    found: dict[str, list[float]] = {}
    for row in ours:
        for reason, share in row["reasons"]:
            if share > 0.1:
                found.setdefault(reason.partition(": `allow_inexact")[0], []).append(share)
    print("\n| reason | networks in which it keeps over 10 % | median share there |")
    print("|---|---|---|")
    for reason, shares in sorted(found.items(), key=lambda each: -len(each[1]))[:12]:
        print(f"| {reason} | {len(shares)} | {statistics.median(shares):.0%} |")


def attends(model: nn.Module) -> bool:
    """Whether a network has attention over positions, by the classes of its parts (SE and its kin are no such)."""
    names = {type(module).__name__.lower() for module in model.modules()}
    return any("attention" in name or "attn" in name or "transformer" in name for name in names)

"""What benchmarks/results.py keeps: a column for each kind of machine, in results.json and on the page RESULTS.md."""

import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import Ratios
from compress.export.onnx.session import has_vnni

ROOT = Path(__file__).resolve().parent.parent
KEPT, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "RESULTS.md"
PACKAGES = ("torch", "torchvision", "numpy", "onnxruntime", "torchao", "brevitas", "nncf", "torch-pruning")
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_int8": "AMX"}
HEAD = (
    "# Speed, against the field",
    "",
    "Written by `python benchmarks/results.py`: medians, with the smallest and the largest value, of rounds in",
    "which the ways take turns in one process. Each kind of machine has a column. Beside a ratio stands its limit on",
    "that machine: what a hand-made best costs there, the fewest passes over memory that this work needs",
    "(`benchmarks/limits.py`). Goals are those of today; each column was measured by the version of its date.",
    'Behind "before" stands what the first measurement on that machine gave, where a row was measured again.',
    "",
)


@dataclass(frozen=True)
class Line:
    """One measured number.

    Attributes:
        what: is measured.
        against: what it is compared with.
        measured: median and spread, in words.
        goal: in words; empty for what others reach.
        met: whether the goal is reached; None where there is none.
        limit: the least that this work can cost here, in words; empty where none is known.
    """

    what: str
    against: str
    measured: str
    goal: str = ""
    met: bool | None = None
    limit: str = ""


def ratio_line(
    what: str,
    ratios: Ratios,
    goal: float | None,
    against: str = "bare loop",
    limit: Ratios | None = None,
    more: str = "",
) -> Line:
    """Time over that of the first way; the goal is on the median.

    Args:
        what: is measured.
        ratios: of it.
        goal: the largest median that meets it; None: there is none.
        against: what the first way is.
        limit: of the hand-made best; None: there is none.
        more: words behind the numbers.
    """
    median = statistics.median(ratios.values)
    text = f"{median:.3f} [{min(ratios.values):.3f}, {max(ratios.values):.3f}], {ratios.milliseconds:.1f} ms{more}"
    least = f"{statistics.median(limit.values):.3f}" if limit else ""
    return Line(what, against, text, f"<= {goal}" if goal else "", median <= goal if goal else None, least)


@functools.cache
def machine() -> str:
    """The kind of this machine: processor, what its integer and matrix units can, cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = {key: line.split(":", 1)[1].strip() for line in lines for key in ("model name", "flags") if key in line}
    flags = set(found.get("flags", "").split())
    units = list(dict.fromkeys(words for flag, words in FLAGS.items() if flag in flags))
    if "VNNI" not in units and has_vnni():
        units.append("VNNI")
    return (
        f"{found.get('model name', platform.machine())}, {' '.join(units) or 'units unknown'}, {os.cpu_count()} cores"
    )


@functools.cache
def versions() -> str:
    """Python and packages, one line."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)


def keep(name: str, lines: Sequence[Line], threads: int, titles: Mapping[str, str], is_part: bool = False) -> None:
    """Puts a row's lines into this machine's column and writes the page anew.

    Args:
        name: of the row.
        lines: measured now.
        threads: of the measurement.
        titles: name -> title of every row, in the order of the page.
        is_part: other lines of the row stay, with the date of their own measurement.
    """
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    column = {
        "date": time.strftime("%Y-%m-%d"), "threads": threads, "load": load, "versions": versions(),
        "lines": [asdict(line) for line in lines],
    }  # fmt: skip
    columns = kept.setdefault(name, {})
    old = columns.get(machine())
    columns[machine()] = remembering(old, joined(old, column) if is_part else column)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page(kept, titles))


def remembering(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A column whose lines say what was measured the first time on this machine."""
    firsts = {}
    for line in old["lines"] if old else []:
        number = line["measured"].partition(";")[0]
        first = line.get("before") or f"{number} on {line.get('date', old['date'] if old else '')}"
        if "not measured" not in first:
            firsts[line["what"]] = first
    lines = []
    for line in new["lines"]:
        is_ours = bool(line["goal"])  # what others reach stands for today
        lines.append({**line, "before": firsts[line["what"]]} if is_ours and line["what"] in firsts else line)
    return {**new, "lines": lines}


def joined(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A column whose other lines are those of before, in their places and with their date."""
    fresh = {line["what"]: line for line in new["lines"]}
    stayed = {line["what"]: {"date": old["date"], **line} for line in old["lines"]} if old else {}
    return {**new, "lines": list({**stayed, **fresh}.values())}


def page(kept: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The Markdown page of all rows measured so far."""
    text = list(HEAD)
    for name in (name for name in titles if name in kept):
        columns: Mapping[str, Any] = kept[name]
        text += [f"## {name}: {titles[name]}", ""]
        for machine_name, each in columns.items():
            threads = f"{each['threads']} thread{'' if each['threads'] == 1 else 's'}"
            text.append(f"- {machine_name}: {each['date']}, {threads}, load {each['load']}; {each['versions']}")
        text += ["", *_table(columns), ""]
    return "\n".join(text)


def _table(columns: Mapping[str, Any]) -> list[str]:
    """What is measured in rows, a machine in each column; goals are those of the column that was measured last."""
    rows: dict[str, dict[str, Any]] = {}
    for machine_name in sorted(columns, key=lambda each: columns[each]["date"], reverse=True):
        for line in columns[machine_name]["lines"]:
            rows.setdefault(line["what"], {})[machine_name] = line
    lines = ["| what | against | goal | " + " | ".join(columns) + " |", "|---|---|---|" + "---|" * len(columns)]
    for what, found in rows.items():
        last = next(iter(found.values()))
        cells = [_cell(found.get(machine_name), columns[machine_name]["date"]) for machine_name in columns]
        against = last["against"] if len({each["against"] for each in found.values()}) == 1 else "see the columns"
        lines.append("| " + " | ".join([what, against, last["goal"], *cells]) + " |")
    return lines


def _cell(line: Mapping[str, Any] | None, date: str) -> str:
    if line is None:
        return "not measured"
    own = f"; on {line['date']}" if line.get("date", date) != date else ""
    limit = f"; limit {line['limit']}" if line.get("limit") else ""
    before = f"; before: {line['before']}" if line.get("before") else ""
    mark = {True: "; met", False: "; **not met**", None: ""}[line["met"]]
    if mark and line["goal"]:
        mark += f" ({line['goal']})"
    return f"{line['measured']}{limit}{mark}{own}{before}"

"""`write_comparison`: compare.html, compare.xlsx and compare.json, and the table for a screen.

Rows put together, and the order of things.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from apputils.compare.candidate import Candidate, cost_row
from apputils.compare.differences import difference_rows, differences_text
from apputils.compare.page import render
from apputils.compare.paired import CONFIDENCE, mean_interval
from apputils.compare.sections import SECTIONS
from apputils.report.book import write_book
from apputils.report.sections.run.reproduce import environment
from apputils.report.write import finite, write_text
from compress.analysis.metric_names import words_of
from compress.export.machine_load import load_text
from compress.export.timing import RUNTIMES, Timed, Timing, threads_text, time_rows, time_text


def compared(
    candidates: Sequence[Candidate], directions: Mapping[str, bool], timing: Timing, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Measures the candidates; everything that the page says, as plain data.

    Args:
        candidates: the first is what ratios of time refer to.
        directions: metric -> whether higher is better.
        timing: how time is taken.
        about: optform, written, measured_on, baseline (name), baseline_quality, command, notes, warnings (of the runs);
            handed through.
    """
    times, how = time_rows([Timed(each.name, each.model, each.inputs, each.file) for each in candidates], timing)
    rows = [
        {"name": each.name, **each.facts, **each.quality, **_spread(each), **cost_row(each), **time}
        for each, time in zip(candidates, times, strict=True)
    ]
    content = {
        **about,
        "metrics": {name: bool(directions.get(name, True)) for name in candidates[0].quality},
        "rows": rows,
        "confidence": CONFIDENCE,
        "differences": difference_rows(candidates, directions),
        "timing": {**how, "device": str(candidates[0].inputs[0].device)},
        "input_shapes": [list(each.shape) for each in candidates[0].inputs],
        "environment": environment(),
    }
    return dict(finite(content))


def _spread(candidate: Candidate) -> dict[str, Any]:
    """Of a group of seeds their number, and the standard deviation of each metric."""
    means = {metric: scores.mean(1) for metric, scores in candidate.scores.items()}
    spread = {f"{metric}_deviation": mean_interval(each)[1] for metric, each in means.items() if candidate.seeds}
    return {"seeds": len(candidate.seeds) or None, **spread}


def write_comparison(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the page, the workbook and the data.

    Raises:
        UserError: a file cannot be written.
    """
    write_text(folder / "compare.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_book(folder / "compare.xlsx", content, SECTIONS)
    write_text(folder / "compare.html", render(content))


def table_text(content: Mapping[str, Any]) -> str:
    """The table for a screen."""
    metrics = list(content["metrics"])
    head = [
        "network",
        *(words_of(name).heading for name in metrics),
        "parameters",
        "MACs",
        "zeros",
        "file",
        "torch, ms",
        "onnxruntime, ms",
    ]
    goals = any(row.get("goals") for row in content["rows"])
    head += ["goals"] * goals
    lines = [[content["baseline"], *(words_of(name).bare(content["baseline_quality"][name]) for name in metrics)]]
    for row in content["rows"]:
        lines.append(
            [_name(row), *(_quality(row, name) for name in metrics), f"{row['parameters']:,}"]
            + [f"{row['macs']:,}", f"{100 * row['sparsity']:.2f} %", _shown(row["file_bytes"], "{:,}")]
            + [time_text(row, runtime) for runtime in RUNTIMES]
            + [row.get("goals") or "-"] * goals
        )
    timing = content["timing"]
    note = (
        f"median [quartiles] of {timing['rounds']} rounds in turns, {threads_text(timing['threads'])}; (x) is the time "
        f"over that of the first network in the same rounds; {load_text(timing['others_cores'])}"
    )
    align = ["left"] + ["right"] * (len(head) - 1)
    table = tabulate(lines, head, disable_numparse=True, colalign=align)
    differences = differences_text(content["differences"])
    spread = "\n\u00b1 is the standard deviation over the seeds" if any(row["seeds"] for row in content["rows"]) else ""
    text = f"{table}\nmeasured on {content['measured_on']}{spread}\n{note}"
    return f"{text}\n\n{differences}" if differences else text


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['name']}, {row['seeds']} seeds" if row["seeds"] else str(row["name"])


def _quality(row: Mapping[str, Any], metric: str) -> str:
    """The metric, of a group with its standard deviation."""
    value, deviation = row[metric], row.get(f"{metric}_deviation")
    if value is None:
        return "-"
    spread = "" if deviation is None else f" \u00b1 {words_of(metric).bare(deviation)}"
    return words_of(metric).bare(value) + spread


def _shown(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)

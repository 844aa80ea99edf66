"""The end of a run in numbers: one form for every application, on screen and as JSON.

The summary's form, its table and file. Called by the trainer and the tester.

    {"run", "optform", "schedule", "epochs", "seconds", "quality": {METRIC: {BASELINE: x, ..., "model": y}},
     "measured_on": {"data", "part", "images"}, "dense": BASELINE | null, "warnings": [{"epoch", "text", "count"}],
     "sparsity": {"weights": {NAME: s}, "scheduled": s, "overall": s}, "params", "macs", "macs_input", "checkpoint"}

"seconds" are those of the clock from when network, optimizer and schedule are built to the last save: training,
validation and saving, of all parts of a resumed run. Imports, opening the data, and the last measurement are not in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import Tensor, nn

from apputils.runs.folders import Run
from apputils.runs.run_warnings import warnings_text
from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of
from compress.analysis.sparsity.totals import Sparsity
from compress.graph.macs.count import count_macs


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulates of one forward pass.
        macs_input: shapes of the inputs that they were counted for.
    """

    params: int
    macs: int
    macs_input: list[list[int]]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> "Cost":
        """Counts a network for these inputs."""
        params = sum(parameter.numel() for parameter in model.parameters())
        shapes = [list(each.shape) for each in example_inputs]
        return cls(params, count_macs(model, example_inputs).total, shapes)


def make_summary(
    *,
    run: str,
    optform: str,
    schedule: str | None,
    epochs: int,
    seconds: float,
    quality: dict[str, dict[str, float]],
    sparsity: Sparsity,
    cost: Cost,
    checkpoint: Path,
    measured_on: Mapping[str, Any],
    dense: str | None = None,
    warnings: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The summary as plain data, in the form of this module's docstring.

    Args:
        measured_on: `data.measured.facts_of` the evaluated data set.
        dense: which of the baselines in `quality` is the dense network's; None: there is none.
        warnings: of the run, entries of `RunWarnings`.
    """
    return {
        "run": run,
        "optform": optform,
        "schedule": schedule,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "quality": quality,
        "measured_on": dict(measured_on),
        "dense": dense,
        "warnings": [dict(entry) for entry in warnings],
        "sparsity": {"weights": sparsity.weights, "scheduled": sparsity.scheduled, "overall": sparsity.overall},
        "params": cost.params,
        "macs": cost.macs,
        "macs_input": cost.macs_input,
        "checkpoint": str(checkpoint),
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The summary for a screen."""
    zeros = [[name, f"{100 * fraction:.2f} %"] for name, fraction in summary["sparsity"]["weights"].items()]
    zeros += [["scheduled weights together", f"{100 * summary['sparsity']['scheduled']:.2f} %"]] if zeros else []
    zeros.append(["all parameters", f"{100 * summary['sparsity']['overall']:.2f} %"])
    size = " x ".join(map(str, summary["macs_input"][0]))
    cost = [
        ["parameters", f"{summary['params']:,}"],
        [f"MACs for an input of {size}", f"{summary['macs']:,}"],
        ["seconds of the epochs, without the start", f"{summary['seconds']:.1f}"],
    ]
    parts = ["", quality_table(summary["quality"]), f"measured on {measured_words(summary['measured_on'])}"]
    parts += [tabulate(zeros, ["weight", "zeros"]), tabulate(cost, ["cost", ""], disable_numparse=True)]
    if summary["warnings"]:
        parts.append(warnings_text(summary["warnings"]))
    return "\n\n".join(parts) + "\n"


def quality_table(quality: Mapping[str, Mapping[str, float]]) -> str:
    """Quality beside each baseline, with the gain over it; a row for each metric and baseline."""
    heads = ["quality", "baseline", "of the baseline", "of the model", "gain"]
    align = ["left", "left", "right", "right", "right"]
    return tabulate(quality_rows(quality), heads, disable_numparse=True, colalign=align)


def quality_rows(quality: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """`["PSNR, dB", "bicubic", "31.14", "33.13", "+2.00"]` for each metric and baseline."""
    rows = []
    for metric, values in quality.items():
        words, own = words_of(metric), values["model"]
        for baseline in (name for name in values if name != "model"):
            gain = words.change(own - values[baseline])
            rows.append([words.heading, baseline, words.bare(values[baseline]), words.bare(own), gain])
    return rows


def whereabouts(run: Run, more: str = "") -> str:
    """Where a run was written, and what to type next, with more options behind it."""
    return (
        f"written: {run.results}/summary.json, {run.checkpoints}/best.pt and last.pt, "
        f"{run.logs}/ (log.txt, metrics.csv, schedule.yaml, TensorBoard events)\n"
        f"next: python test.py --run={run.name}{more}"
    )

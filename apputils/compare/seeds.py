"""What a group of seeds gives, in numbers: mean, standard deviation and interval; as a table and as a page.

{"group", "optform", "schedule", "seeds": {SEED: RUN}, "measured_on": {"data", "part", "images"},
 "quality": {METRIC: {"model": {"seeds": {SEED: x}, "mean", "deviation", "low", "high"}, BASELINE: mean, ...}},
     "goals": {"verdict", "rows": [{"goal", "verdict"}]} | null}
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from apputils.compare.paired import CONFIDENCE, mean_interval
from apputils.report.blocks import Block, Lines, Text
from apputils.report.page import Head
from apputils.report.page import render as render_page
from apputils.report.section import Content, Section
from apputils.report.tables import Table, column
from apputils.runs.seed_groups import SeedGroup
from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of
from compress.goals.judge import verdict_of


def group_summary(group: SeedGroup, summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of a group, as plain data in the form of this module's docstring.

    Args:
        group: whose runs they are.
        summaries: seed -> the run's summary, of training or of testing.
    """
    first = next(iter(summaries.values()))
    return {
        "group": group.name,
        "optform": group.optform,
        "schedule": group.options.get("compress"),
        "seeds": {str(seed): run.name for seed, run in group.members.items()},
        "measured_on": first["measured_on"],
        "quality": {metric: _of_metric(metric, summaries) for metric in first["quality"]},
        "goals": _goals(group, summaries),
    }


def _goals(group: SeedGroup, summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The goals of all runs, each with its run's name; the verdict is the worst of them. None without goals."""
    records = {group.members[seed].name: each.get("goals") for seed, each in summaries.items()}
    found = {name: record for name, record in records.items() if record}
    if not found:
        return None
    rows = [
        {"goal": f"{row['goal']} ({name})", "verdict": row["verdict"]}
        for name, record in found.items()
        for row in record["rows"]
    ]
    return {"verdict": verdict_of(rows), "rows": rows}


def _of_metric(metric: str, summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    values = {seed: float(each["quality"][metric]["model"]) for seed, each in summaries.items()}
    mean, deviation, low, high = mean_interval(np.array(list(values.values())))
    own = {"seeds": {str(seed): value for seed, value in values.items()}, "mean": mean}
    own |= {"deviation": _finite(deviation), "low": _finite(low), "high": _finite(high)}
    rows = [each["quality"][metric] for each in summaries.values()]
    others = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "model"}
    return {"model": own, **others}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def group_table(summary: Mapping[str, Any]) -> str:
    """The group for a screen: a column for each metric."""
    metrics = {metric: words_of(metric) for metric in summary["quality"]}
    found = [values["model"] for values in summary["quality"].values()]
    rows = [
        [f"seed {seed}", *(words.bare(own["seeds"][seed]) for words, own in zip(metrics.values(), found, strict=True))]
        for seed in summary["seeds"]
    ]
    pairs = list(zip(metrics.values(), found, strict=True))
    rows.append(["mean", *(words.bare(own["mean"]) for words, own in pairs)])
    if len(summary["seeds"]) > 1:
        rows.append(["standard deviation", *(words.bare(own["deviation"]) for words, own in pairs)])
        ends = [f"{words.bare(own['low'])} to {words.bare(own['high'])}" for words, own in pairs]
        rows.append([f"{100 * CONFIDENCE:.0f} % interval of the mean", *ends])
    for name in next(iter(summary["quality"].values())):
        if name != "model":
            rows.append([name, *(words.bare(summary["quality"][metric][name]) for metric, words in metrics.items())])
    heads = [summary["group"], *(words.heading for words in metrics.values())]
    align = ["left"] + ["right"] * len(metrics)
    text = tabulate(rows, heads, disable_numparse=True, colalign=align)
    return f"{text}\nmeasured on {measured_words(summary['measured_on'])}"


class Seeds(Section):
    """The table of the seeds."""

    name, title = "seeds", "Quality under each seed"

    def tables(self, content: Content) -> list[Table]:
        """Seeds, mean, deviation and interval."""
        quality = content["quality"]
        shown = [column("seed", ""), *(column(metric, words_of(metric).heading) for metric in quality)]
        rows = [
            {"seed": f"{seed} ({run})", **{metric: words_of(metric).bare(values["model"]["seeds"][seed])
            for metric, values in quality.items()}} for seed, run in content["seeds"].items()
        ]  # fmt: skip
        for key, words in (("mean", "mean"), ("deviation", "standard deviation"), ("low", "interval, from"),
                           ("high", "interval, to")):  # fmt: skip
            found = {metric: values["model"][key] for metric, values in quality.items()}
            rows.append({"seed": words} | {m: "" if v is None else words_of(m).bare(v) for m, v in found.items()})
        for name in [name for name in next(iter(quality.values())) if name != "model"]:
            rows.append({"seed": name} | {m: words_of(m).bare(values[name]) for m, values in quality.items()})
        return [Table("seeds", rows, shown)]

    def blocks(self, content: Content, folder: Path) -> list[Block]:
        """What the interval is, then the table and where each run's own report is."""
        text = (
            f"The interval holds the mean over all seeds with {100 * CONFIDENCE:.0f} % confidence (t distribution over "
            "these seeds). python test.py --compare GROUP GROUP says whether two groups differ."
        )
        pages = "\n".join(f"results/{run}/report.html" for run in content["seeds"].values())
        return [Text(text, "quiet"), *self.tables(content), Lines(pages, "the reports of the runs")]


def group_page(summary: Mapping[str, Any]) -> str:
    """The page of a group: results/<group>/report.html."""
    title = f"{summary['group']}: {len(summary['seeds'])} seeds"
    about = f"{summary['optform']}, measured on {measured_words(summary['measured_on'])}"
    return render_page(Head(title, title, about), summary, (Seeds(),), Path())

"""Whether the networks of a comparison differ from its first one, image by image and seed by seed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tabulate import tabulate

from apputils.compare.candidate import Candidate
from apputils.compare.paired import CONFIDENCE, NO_DIFFERENCE, paired_difference
from compress.analysis.metric_names import words_of

Row = Mapping[str, Any]
OTHER_SEEDS = "other seeds, these images"


def difference_rows(candidates: Sequence[Candidate], directions: Mapping[str, bool]) -> list[dict[str, Any]]:
    """A row for each metric of each network but the first: what `Difference` has, and the findings in words.

    Args:
        candidates: those whose scores of single images are known are compared.
        directions: metric -> whether higher is better.
    """
    first, *others = candidates
    rows = []
    for other in others:
        paired = set(first.seeds) == set(other.seeds)
        order = [other.seeds.index(seed) for seed in first.seeds] if paired and first.seeds else slice(None)
        for metric in [metric for metric in first.scores if metric in other.scores]:
            found = paired_difference(first.scores[metric], other.scores[metric][order], paired)
            words = partial(_finding, metric, found.mean, directions.get(metric, True))
            row = {"name": other.name, "than": first.name, "metric": metric, **found.facts()}
            row["finding"] = words(found.shown)
            if found.over_seeds:
                row["over_seeds"] |= {"finding": words(found.over_seeds.shown), "seeds": list(first.seeds)}
            rows.append(row)
    return rows


def _finding(metric: str, mean: float, higher_is_better: bool, shown: bool) -> str:
    """`better by 0.12 dB`, or that no difference is shown."""
    if not shown:
        return NO_DIFFERENCE
    better = (mean > 0) == higher_is_better
    return f"{'better' if better else 'worse'} by {words_of(metric).difference(abs(mean))}"


def interval_text(row: Row) -> str:
    """`-0.05 to +0.12`."""
    if row["low"] is None or row["high"] is None or row["high"] == float("inf"):
        return "unknown: it takes two images"
    return _ends(row["metric"], row)


def over_seeds_text(row: Row) -> str:
    """`better by 0.57 points (+0.08 to +1.05), p 0.013`: for other seeds on the same images; '' of single networks."""
    found = row.get("over_seeds")
    if not found or found["low"] is None:
        return ""
    p = "" if found["p"] is None else f", p {found['p']:.2g}"
    return f"{found['finding']} ({_ends(row['metric'], found)}){p}"


def flat_row(row: Row) -> dict[str, Any]:
    """The row for a sheet: one value in a cell, without the parts of the interval."""
    flat = {key: value for key, value in row.items() if key not in ("parts", "over_seeds")}
    if found := row.get("over_seeds"):
        flat |= {"other_seeds": over_seeds_text(row)} | {
            f"other_seeds_{key}": found[key] for key in ("low", "high", "p")
        }
    return flat


def _ends(metric: str, row: Row) -> str:
    words = words_of(metric)
    return f"{words.change(row['low'])} to {words.change(row['high'])}"


def differences_text(rows: Sequence[Row]) -> str:
    """The rows for a screen, and what they speak of; '' without rows."""
    if not rows:
        return ""
    groups = any(over_seeds_text(row) for row in rows)
    lines = [
        [row["name"], words_of(row["metric"]).heading, row["finding"], interval_text(row), row["seeds"], row["images"]]
        + [over_seeds_text(row)] * groups
        for row in rows
    ]
    heads = ["network", "metric", f"than {rows[0]['than']}", "interval", "seeds", "images"] + [OTHER_SEEDS] * groups
    return f"{tabulate(lines, heads, disable_numparse=True)}\n{how_to_read(rows)}"


def how_to_read(rows: Sequence[Row]) -> str:
    """What the intervals are, and what one seed cannot say."""
    text = f"{100 * CONFIDENCE:.0f} % intervals of the mean difference, image by image"
    if left_out := max(row["left_out"] for row in rows):
        text += f" (up to {left_out} of them left out, where a score is not finite)"
    if any(row["seeds"] == 1 for row in rows):
        return f"{text}; with one seed nothing is known of other seeds (train.py --seeds=5)"
    seeds = "seed by seed" if all(row["paired"] for row in rows) else "over unpaired seeds"
    return f"{text} and {seeds}: for other images and other seeds; the last column, for other seeds on these images"

"""Whether the networks of a comparison differ from its first one, image by image and seed by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from apputils.compare.candidate import Candidate
from apputils.compare.paired import CONFIDENCE, NO_DIFFERENCE, Difference, paired_difference
from compress.analysis.metric_names import words_of

Row = Mapping[str, Any]


def difference_rows(candidates: Sequence[Candidate], directions: Mapping[str, bool]) -> list[dict[str, Any]]:
    """A row for each metric of each network but the first: what `Difference` has, and the finding in words.

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
            words = _finding(metric, found, directions.get(metric, True))
            row = {"name": other.name, "than": first.name, "metric": metric, **found.facts(), "finding": words}
            rows.append(row)
    return rows


def _finding(metric: str, found: Difference, higher_is_better: bool) -> str:
    """`better by 0.12 dB`, or that no difference is shown."""
    if not found.shown:
        return NO_DIFFERENCE
    better = (found.mean > 0) == higher_is_better
    return f"{'better' if better else 'worse'} by {words_of(metric).value(abs(found.mean))}"


def interval_text(row: Row) -> str:
    """`-0.05 to +0.12`."""
    words = words_of(row["metric"])
    if row["low"] is None or row["high"] is None or row["high"] == float("inf"):
        return "unknown: one image of one seed"
    return f"{words.change(row['low'])} to {words.change(row['high'])}"


def differences_text(rows: Sequence[Row]) -> str:
    """The rows for a screen, and what they speak of; '' without rows."""
    if not rows:
        return ""
    lines = [
        [row["name"], words_of(row["metric"]).heading, row["finding"], interval_text(row), row["seeds"], row["images"]]
        for row in rows
    ]
    heads = ["network", "metric", f"than {rows[0]['than']}", "interval", "seeds", "images"]
    return f"{tabulate(lines, heads, disable_numparse=True)}\n{how_to_read(rows)}"


def how_to_read(rows: Sequence[Row]) -> str:
    """What the intervals are, and what one seed cannot say."""
    text = f"{100 * CONFIDENCE:.0f} % intervals of the mean difference, image by image"
    if any(row["seeds"] == 1 for row in rows):
        return f"{text}; with one seed nothing is known of other seeds (train.py --seeds=5)"
    return f"{text} and " + ("seed by seed" if all(row["paired"] for row in rows) else "over unpaired seeds")

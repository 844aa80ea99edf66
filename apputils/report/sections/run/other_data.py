"""Whether an analysis in a run's folder was measured on the data of the page's own quality.

Called by the sections of what may be older than the evaluation.
"""

import math
from collections.abc import Mapping
from typing import Any

from compress.analysis.measured_words import measured_words
from compress.analysis.metric_names import words_of

SAME = 1e-4  # relative: what a network's own metrics may differ between two ways to sum them up


def other_data(facts: Mapping[str, Any] | None, quality: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """What an analysis was measured on, where that is not what the page's quality was measured on; else ''.

    Args:
        facts: what `data.measured.facts_of` said then; None of an analysis that did not keep it.
        quality: metric -> value, of the network as it is, by that analysis.
        summary: of the page's evaluation.
    """
    if facts is not None and dict(facts) != dict(summary["measured_on"]):
        return measured_words(facts)
    for metric, then in quality.items():
        now = summary["quality"].get(metric, {}).get("model")
        if now is not None and not _same(float(then), float(now)):
            words = words_of(metric)
            before, here = words.value(float(then)), words.value(float(now))
            return f"other images: {words.title} was {before} there and is {here} here"
    return ""


def _same(then: float, now: float) -> bool:
    return math.isclose(then, now, rel_tol=SAME, abs_tol=1e-6) or (math.isnan(then) and math.isnan(now))

"""A trained network that is no better than the trivial method beside it, or better than its teacher, in words.

`learned_nothing`, `worse_teachers`. Called by the final summary of a run and by the tester.
"""

import math
from collections.abc import Mapping, Sequence

from compress.analysis.metric_names import words_of
from compress.distillation.teachers import SELF
from engine.saved.dense_baseline import title_of

FEWEST_EPOCHS = 3  # shorter runs are tries, of which nothing is expected


def learned_nothing(
    metric: str, value: float, baseline: tuple[str, float], higher: bool, history: Sequence[Mapping[str, float]]
) -> str:
    """A sentence where a run's network is not better than its trivial baseline; '' where it is.

    Args:
        metric: that the run is judged by.
        value: of the network.
        baseline: the trivial method's name and value.
        higher: whether more of the metric is better.
        history: a row for each finished epoch; runs of fewer than 3 are not judged.
    """
    name, trivial = baseline
    words = words_of(metric)
    gain = (value - trivial) * (1 if higher else -1)
    if len(history) < FEWEST_EPOCHS or round(gain, words.digits) > 0:
        return ""
    return (
        f"{words.title} {words.value(value)} is no better than that of the trivial baseline ({name}: "
        f"{words.value(trivial)}): the network has learned nothing of use{_diverged(history)}"
    )


def worse_teachers(metric: str, value: float, teachers: Mapping[str, float], higher: bool) -> list[str]:
    """A sentence for each teacher that does worse than the network it has taught; `self` is none, it is what was.

    Args:
        metric: that the run is judged by.
        value: of the network.
        teachers: what reports call them -> value, on the same data.
        higher: whether more of the metric is better.
    """
    words = words_of(metric)
    return [
        f"{name} has {words.title} {words.value(own)}, worse than the network that it taught ({words.value(value)}): a "
        "network learns little from such a teacher; train a better one, or compare with the same run without it"
        for name, own in teachers.items()
        if name != title_of(SELF) and round((value - own) * (1 if higher else -1), words.digits) > 0
    ]


def _diverged(history: Sequence[Mapping[str, float]]) -> str:
    # Where policies add terms to the loss, the whole of it may grow by their strength alone.
    losses = [row.get("own_loss", row.get("loss", math.nan)) for row in history]
    first, last = losses[0], losses[-1]
    if math.isfinite(last) and not last > first:
        return ""
    return (
        f". Its training loss grew from {first:.4g} in the first epoch to {last:.4g} in the last, so training probably "
        "diverged: try a smaller --lr"
    )

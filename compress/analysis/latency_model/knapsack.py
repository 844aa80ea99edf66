"""Per-group widths for a time budget at the least loss of importance.

`widths_for`. After Shen et al. 2022, HALP: Hardware-Aware Latency Pruning, arXiv 2110.10811, algorithm 1: a knapsack
whose costs are looked-up latencies of the present widths, solved again as the widths shrink. Here an item is a group at
one of its useful widths (a multiple-choice knapsack), and the last steps take single items.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

ROUNDS = 6  # of shrinking towards the budget
BINS = 400  # of the time budget
Widths = dict[str, int]


def widths_for(
    budget: float,
    scores: Mapping[str, Sequence[float]],
    choices: Mapping[str, Sequence[int]],
    time_of: Callable[[Widths], float],
) -> Widths:
    """The width of each group.

    Args:
        budget: time, in the unit of `time_of`.
        scores: group -> importance of each of its units, any order, >= 0; the most important ones stay.
        choices: group -> widths to choose from, increasing; the last one is the full width.
        time_of: of the network at given widths.

    Returns:
        widths within the budget, or the smallest ones where no widths are.
    """
    kept = {name: _kept(each) for name, each in scores.items()}
    now = {name: max(each) for name, each in choices.items()}
    start = time_of(now)
    for step in range(1, ROUNDS + 1):
        # Geometrically towards the budget: a saving depends on the
        # other groups' widths, so each round looks them up anew.
        target = max(budget, start * (budget / start) ** (step / ROUNDS))
        if (present := time_of(now)) > target:
            now = _solved(now, target - present, kept, choices, time_of)
    while time_of(now) > budget and (smaller := _one_step(now, kept, choices, time_of)):
        now = smaller
    return _grown(now, budget, kept, choices, time_of)


def _kept(scores: Sequence[float]) -> np.ndarray:
    """Importance of the best 0, 1, 2, ... units."""
    return np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(scores, dtype=float))[::-1])])


def _solved(
    now: Widths,
    change: float,
    kept: Mapping[str, np.ndarray],
    choices: Mapping[str, Sequence[int]],
    time_of: Callable[[Widths], float],
) -> Widths:
    """The knapsack at the present widths: each group's saving as if the others stayed, at least `-change` in all."""
    present, need = time_of(now), -change
    best = np.full(BINS + 1, np.inf)  # bin of saved time -> the least importance lost
    best[0] = 0.0
    taken: list[tuple[str, list[int], np.ndarray]] = []
    for name, width in now.items():
        options = [each for each in choices[name] if each <= width]
        savings = [max(0.0, present - time_of({**now, name: each})) for each in options]
        # Rounded down: what the table promises is saved at least. The last bin stands for all that is needed and more.
        bins = [min(BINS, int(saved / need * BINS)) for saved in savings]
        losses = [float(kept[name][width] - kept[name][each]) for each in options]
        best, picks = _with_group(best, bins, losses)
        taken.append((name, options, picks))
    # All that is needed, or as near to it as the choices come.
    place = int(np.flatnonzero(np.isfinite(best))[-1])
    found = dict(now)
    for name, options, picks in reversed(taken):
        option, place = int(picks[place][0]), int(picks[place][1])
        found[name] = options[option]
    return found


def _with_group(best: np.ndarray, bins: Sequence[int], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """One more group in the table of the knapsack, and for each bin its option and the bin before."""
    found = np.full_like(best, np.inf)
    picks = np.zeros((len(best), 2), dtype=int)
    for option, (saved, loss) in enumerate(zip(bins, losses, strict=True)):
        for place in np.flatnonzero(np.isfinite(best)):
            there = min(BINS, int(place) + saved)
            if best[place] + loss < found[there]:
                found[there], picks[there] = best[place] + loss, (option, place)
    return found, picks


def _one_step(
    now: Widths,
    kept: Mapping[str, np.ndarray],
    choices: Mapping[str, Sequence[int]],
    time_of: Callable[[Widths], float],
) -> Widths | None:
    """The group made one choice narrower that loses least for the time it saves; None where all are at their end."""
    present, found = time_of(now), []
    for name, width in now.items():
        smaller = [each for each in choices[name] if each < width]
        if smaller:
            saved = present - time_of({**now, name: smaller[-1]})
            found.append((float(kept[name][width] - kept[name][smaller[-1]]) / max(saved, 1e-12), name, smaller[-1]))
    return {**now, min(found)[1]: min(found)[2]} if found else None


def _grown(
    now: Widths,
    budget: float,
    kept: Mapping[str, np.ndarray],
    choices: Mapping[str, Sequence[int]],
    time_of: Callable[[Widths], float],
) -> Widths:
    """Widens what still fits, the largest gain of importance first: bins and savings were rounded down."""
    while True:
        wider = {name: [each for each in choices[name] if each > width] for name, width in now.items()}
        fits = [
            (float(kept[name][each[0]] - kept[name][now[name]]), name, each[0])
            for name, each in wider.items()
            if each and time_of({**now, name: each[0]}) <= budget
        ]
        if not fits:
            return now
        _, name, width = max(fits)
        now = {**now, name: width}

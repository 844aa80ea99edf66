"""A network's time over the dense one's, measured until a bound is decided.

`measure_ratio`: both files in one runtime, in turns of the same rounds, loaded anew several times.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from compress.export.latency import Latency, Rounds, take_turns
from compress.export.machine_load import OthersLoad, load_text
from compress.goals.judge import Value
from compress.goals.runtimes import timed_in

LOADS, ROUNDS, SECONDS = 8, 24, 0.05  # at first: loads, turns of each file in all, and the least time of a turn
LATER_ROUNDS = 15  # of a load, once it is to be decided
PAUSE = 0.5  # seconds between loads: what slows one of two files down lasts for a second or more
MOST_ROUNDS = 300  # where a bound stays undecided
DENSE, OWN = "dense", "own"


def measure_ratio(
    file: Path,
    dense_file: Path,
    inputs: tuple[Tensor, ...],
    runtime: str,
    bound: float | None = None,
    *,
    threads: int = 1,
    most_rounds: int = MOST_ROUNDS,
) -> Value:
    """Time of a file over that of the dense float file, by the same runtime in the same rounds.

    A runtime that loads a file twice does not always run it equally fast, and a machine does not stay the same for
    long, so the files are loaded anew every few rounds, half a second after the last ones. The noise is the larger of
    two: that of a median by its quartiles, 1.57 (Q3 - Q1) / sqrt(rounds), about a 95 % interval (McGill, Tukey and
    Larsen, "Variations of Box Plots", The American Statistician 32, 1978); and that of the median of the loads' own
    medians by their order (the sign test's interval). Where the bound lies within it, loads are added, `most_rounds`
    at most. What changes from minute to minute it does not show.

    Args:
        file: exported.
        dense_file: of the dense float network.
        inputs: of one forward pass.
        runtime: a name of `RUNTIMES`.
        bound: to decide; None measures `ROUNDS` rounds of `LOADS` loads.
        threads: of the runtime.
        most_rounds: >= 4, for two loads of two.

    Raises:
        ValueError: fewer than four rounds.
        UserError: the runtime is not installed, refuses a file, crashes or hangs.
    """
    if most_rounds < 4:
        raise ValueError(f"most_rounds={most_rounds}: the spread between loads needs two of two rounds each")
    loads: list[Latency] = []
    whole = Rounds({DENSE: [], OWN: []}, {DENSE: 1, OWN: 1})
    with OthersLoad() as others:
        for rounds in _rounds_of_loads(most_rounds):
            time.sleep(PAUSE if loads else 0.0)
            with timed_in(runtime, {DENSE: dense_file, OWN: file}, inputs, threads) as (ways, precision):
                taken = take_turns(ways, rounds, SECONDS)
            loads.append(taken.latency(OWN, DENSE))
            for name, seconds in taken.seconds.items():
                whole.seconds[name] += seconds
            found = whole.latency(OWN, DENSE)
            noise = noise_of(found, [each.ratio for each in loads])
            is_decided = bound is None or abs(found.ratio - bound) > noise
            if found.rounds >= ROUNDS and is_decided:
                break
    end = "" if is_decided else "; still within the noise of the bound, and no more rounds are measured"
    how = f"{found.rounds} rounds in turns, {len(loads)} loads, {threads} thread{'s' * (threads != 1)}"
    note = f"{how}, floats in {precision}; {load_text(others.cores)}{end}"
    return Value(found.ratio, noise, found.ratio_low, found.ratio_high, note)


def noise_of(found: Latency, of_loads: Sequence[float]) -> float:
    """How far the interval of the median ratio reaches from it, by all rounds or by the loads' own medians."""
    return max(median_noise(found.ratio_low, found.ratio_high, found.rounds), order_noise(of_loads))


def order_noise(values: Sequence[float]) -> float:
    """How far a median's interval reaches, by the order of the values alone: of any distribution.

    The interval of the sign test, the narrowest that misses the median in at most 7.1 % of all cases (so that eight
    values leave out one at each end). Fewer than five values cannot be as sure; theirs is all that they span.
    """
    ordered, out = sorted(values), 0
    while sum(math.comb(len(ordered), i) for i in range(out + 2)) * 2 / 2 ** len(ordered) <= 0.071:
        out += 1
    middle = statistics.median(ordered)
    return max(ordered[len(ordered) - 1 - out] - middle, middle - ordered[out])


def median_noise(low: float, high: float, rounds: int) -> float:
    """Half the width of a median's interval, by the quartiles of what it is the median of."""
    return float(1.57 * (high - low) / rounds**0.5)


def _rounds_of_loads(most: int) -> Iterator[int]:
    """How many rounds each load takes part in: never one alone, at most so many together."""
    left, loads = most, 0
    while left >= 2:
        wanted = ROUNDS // LOADS if loads < LOADS else LATER_ROUNDS
        now = left if left <= wanted else min(wanted, left - 2)
        yield now
        left, loads = left - now, loads + 1

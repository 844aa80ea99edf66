"""A network's time over the dense one's, measured until a bound is decided.

`measure_ratio`: both files in one runtime, in turns of the same rounds.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from compress.export.latency import Latency, Way, measure_latency
from compress.export.machine_load import OthersLoad, load_text
from compress.goals.judge import Value
from compress.goals.runtimes import timed_in

ROUNDS, SECONDS = 15, 0.05  # at first: turns of each file, and the least time of a turn
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

    The noise is that of a median by its quartiles, 1.57 (Q3 - Q1) / sqrt(rounds), about a 95 % interval (McGill, Tukey
    and Larsen, "Variations of Box Plots", The American Statistician 32, 1978). Where the bound lies within it, rounds
    are added, `most_rounds` at most.

    Args:
        file: exported.
        dense_file: of the dense float network.
        inputs: of one forward pass.
        runtime: a name of `RUNTIMES`.
        bound: to decide; None measures `ROUNDS` rounds.
        threads: of the runtime.
        most_rounds: >= 2.

    Raises:
        UserError: the runtime is not installed, refuses a file, crashes or hangs.
    """
    files = {DENSE: dense_file, OWN: file}
    with timed_in(runtime, files, inputs, threads) as (ways, precision), OthersLoad() as others:
        found = _ratio(ways, bound, most_rounds)
    end = ""
    if bound is not None and not decided(found, bound):
        end = f"; still within the noise of the bound after {found.rounds} rounds, the most that are measured"
    how = f"{found.rounds} rounds in turns, {threads} thread{'s' * (threads != 1)}, floats in {precision}"
    note = f"{how}; {load_text(others.cores)}{end}"
    return Value(found.ratio, noise_of(found), found.ratio_low, found.ratio_high, note)


def noise_of(found: Latency) -> float:
    """Half the width of the interval of the median ratio."""
    return median_noise(found.ratio_low, found.ratio_high, found.rounds)


def median_noise(low: float, high: float, rounds: int) -> float:
    """Half the width of a median's interval, by the quartiles of what it is the median of."""
    return float(1.57 * (high - low) / rounds**0.5)


def decided(found: Latency, bound: float) -> bool:
    """Whether the ratio is further from a bound than its noise."""
    return abs(found.ratio - bound) > noise_of(found)


def _ratio(ways: Mapping[str, Way], bound: float | None, most_rounds: int) -> Latency:
    enough = lambda each: bound is None or decided(each[OWN], bound)  # noqa: E731
    return measure_latency(ways, min(ROUNDS, most_rounds), SECONDS, enough=enough, most_rounds=most_rounds)[OWN]

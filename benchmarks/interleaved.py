"""Timing two or more ways to do the same, fairly on a noisy machine.

Rounds that take turns in one process, ratios of neighbours, and the options of such benchmarks. With one thread the
time is the processor's, which other programs disturb less than the clock on the wall.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], None]


@dataclass(frozen=True)
class Ratios:
    """Time of one way over the time of the first, round by round.

    Attributes:
        values: one ratio a round.
        milliseconds: median time of one repetition of this way.
    """

    values: list[float]
    milliseconds: float

    def __str__(self) -> str:
        values = self.values
        return f"min {min(values):.3f}  median {statistics.median(values):.3f}  max {max(values):.3f}"


def compare(
    ways: Mapping[str, Work], rounds: int, repetitions: int, clock: Callable[[], float] | None = None
) -> dict[str, Ratios]:
    """Runs every way in each round, in an order that turns, and compares each with the first.

    Args:
        ways: name -> work; the first is what the others are compared with.
        rounds: how many ratios.
        repetitions: of the work within one round.
        clock: seconds; None takes the processor's time of this process where torch has one thread.
    """
    names = list(ways)
    clock = clock or (time.process_time if torch.get_num_threads() == 1 else time.perf_counter)
    for work in ways.values():
        for _ in range(2):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            started = clock()
            for _ in range(repetitions):
                ways[name]()
            seconds[name].append((clock() - started) / repetitions)
    first = seconds[names[0]]
    return {
        name: Ratios([a / b for a, b in zip(own, first, strict=True)], 1000 * statistics.median(own))
        for name, own in seconds.items()
    }


def options_of(description: str | None) -> argparse.Namespace:
    """The options of a benchmark of training steps: rounds, steps, threads, only."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps of a loop before the next one has its turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="only the rows whose name holds this text")
    return parser.parse_args()

"""What every fuzz test watches: nothing hangs, memory does not grow, nothing but a UserError comes out.

Here: `Watched`, `fuzz`, `TIERS`. Not here: what is read.
"""

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from compress.errors import UserError

SECONDS = 5.0  # of the processor, for one case
STUCK = 300  # seconds on the clock for one case; only a hang outside of Python comes here
MOST_GROWTH = 150 << 20  # bytes, between the first fifth of the cases and the last
LONGEST_LINE = 1500  # characters of a message


def tiers(few: int, many: int) -> pytest.MarkDecorator:
    """Runs a test with a few cases, and with many among the slow tests, by its argument `examples`."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


class Watched:
    """Runs cases and counts what came of them.

    Attributes:
        read: cases that were read after all.
        refused: cases that ended in a UserError.
    """

    def __init__(self) -> None:
        self.read = self.refused = 0
        self.slowest = 0.0

    def __call__(self, work: Callable[[], Any]) -> None:
        """One case; any other exception than UserError, and more than `SECONDS`, is a failure."""
        try:
            with limited(SECONDS):
                work()
        except UserError as e:
            message = str(e).strip()
        else:
            self.read += 1
            return
        self.refused += 1
        assert message, "an empty message"
        assert len(max(message.splitlines(), key=len)) < LONGEST_LINE, "an endless message"


def fuzz(cases: SearchStrategy[Any], examples: int, work: Callable[[Any], Any]) -> Watched:
    """Runs `work` on so many cases, the same ones each time; checks time and memory.

    Returns:
        the counts; a test asserts that both are above zero, as a mutator that breaks everything finds nothing.
    """
    watched, memory = Watched(), []

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases)
    def one(case: Any) -> None:
        watched(lambda: work(case))
        memory.append(resident())

    one()
    grown = max(memory[-len(memory) // 5 :]) - max(memory[: max(len(memory) // 5, 1)])
    assert examples < 100 or grown < MOST_GROWTH, f"memory has grown by {grown / 2**20:.0f} MB"
    print(f"\n{watched.read} read, {watched.refused} refused, memory {grown / 2**20:+.0f} MB over {len(memory)} cases")
    return watched


def resident() -> int:
    """Bytes of memory of this process that are in use (Linux; elsewhere 0)."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """TimeoutError in what takes more of the processor; the process ends, with a traceback, if it is stuck."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} seconds of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        faulthandler.cancel_dump_traceback_later()

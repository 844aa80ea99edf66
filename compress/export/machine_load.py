"""How much of the machine others used while something was timed; known on Linux only."""

import os
import time
from pathlib import Path

from compress.io.files import read_text

STAT = Path("/proc/stat")
NOTICEABLE = 0.2  # of a core


class OthersLoad:
    """Counts, inside a `with` block, what other processes computed.

    Attributes:
        cores: of the machine that others kept busy on average, >= 0; None where it is unknown.
    """

    cores: float | None = None

    def __enter__(self) -> "OthersLoad":
        self._started = time.perf_counter(), _busy_seconds(), _own_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = self._started
        now = _busy_seconds()
        if busy is not None and now is not None:
            spent = time.perf_counter() - wall
            self.cores = max(0.0, (now - busy - (_own_seconds() - own)) / spent) if spent > 0 else None


def load_text(cores: float | None) -> str:
    """A sentence for messages."""
    if cores is None:
        return "what else the machine did meanwhile is not known"
    if cores < NOTICEABLE:
        return "the machine did nothing else meanwhile"
    return (
        f"other processes kept {cores:.1f} of {os.cpu_count()} cores busy meanwhile, so times are too long; ratios less"
    )


def _busy_seconds() -> float | None:
    """Of all cores since the machine started: all but idle and waiting for disks."""
    try:
        ticks = [int(word) for word in read_text(STAT).splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])

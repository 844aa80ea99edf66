"""A run is trained by one process at a time.

`hold`. The lock is the operating system's, on the file `logs/<run>/lock`: it goes with the process, however that
ends, and nothing has to be cleaned up.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from apputils.runs.folders import Run
from compress.errors import UserError, printable
from compress.io.files import read_text, write_text

LONGEST_OWNER = 200  # characters
WAIT = 3.0  # seconds: a process that was just killed, and its workers, are given so long to be gone


def _owner(file: Path) -> str:
    try:
        return printable(read_text(file).strip()[:LONGEST_OWNER]) or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


@contextmanager
def hold(run: Run) -> Iterator[None]:
    """Has the lock of a run inside of a `with`.

    Raises:
        UserError: another process has it.
    """
    run.logs.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(run.logs / "lock"), run.logs / "running.txt"
    try:
        lock.acquire(timeout=WAIT)
    except Timeout as e:
        who = _owner(owner)
        raise UserError(
            f"the run {run.name} is being trained by {who}; wait until it has ended, or end it. Nothing was changed"
        ) from e
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # a full disk: only who waits for this run would read it
        write_text(owner, f"process {os.getpid()} on {platform.node()} since {since}\n")
    try:
        yield
    finally:
        lock.release()

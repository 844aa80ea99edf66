"""Work that may end the process, in a process of its own, where a crash becomes an error message.

`apart`, `Apart`. torch's exporter can end by a signal (a network that replaces its weights in `forward`), and a run
must not end with it. Called by export.py, and where an evaluation does two things at once.
"""

import faulthandler
import logging
import os
import pickle
import select
import signal
import warnings
from collections.abc import Callable
from typing import IO, Generic, NoReturn, TypeVar

import torch

from compress.errors import UserError
from compress.io.files import read_text

logger = logging.getLogger("run")
T = TypeVar("T")
CHECK = 2.0  # seconds between two looks at the child
STANDS_STILL = 60.0  # seconds of sleep without any processor time, after which it will not wake up
LONG = 60.0  # seconds of processor time, after which the user is told what may help


def apart(work: Callable[[], T], what: str, when_long: str = "") -> T:
    """The result of a function that runs in a forked process; in this one where there is no fork (Windows).

    Args:
        work: gives something that can be pickled; what else it changes is lost.
        what: it is, for the message.
        when_long: what may help, logged once when it has taken a minute of processor time; '' logs nothing.

    Raises:
        UserError: as `work` raised it.
        Ended: the process ended without a result.
    """
    return Apart(work, what, when_long).result()


class Apart(Generic[T]):
    """The same as an object: the function runs while this process does something else, until `result` is called.

    As a context manager it ends the process if the block is left by an error.
    """

    def __init__(self, work: Callable[[], T], what: str, when_long: str = "") -> None:
        self._work, self._what = work, what
        self._when_long = f"{what} has worked for more than a minute; {when_long}" if when_long else ""
        self._child = 0  # none, or no more
        if not hasattr(os, "fork"):
            return
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child uses none of them
            child = os.fork()
        if not child:
            os.close(read)
            _send(work, write)
        os.close(write)
        self._child, self._pipe = child, os.fdopen(read, "rb")

    def __enter__(self) -> "Apart[T]":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.stop()

    def stop(self) -> None:
        """Ends the process; what it did is lost."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            self._ended()

    def result(self) -> T:
        """See `apart`."""
        if not self._child:
            return self._work()
        try:
            moves = _answers(self._child, self._pipe, self._when_long)
            data = self._pipe.read() if moves else b""
        except BaseException:
            self.stop()
            raise
        if not moves:
            self.stop()
            logger.warning("%s stood still in a process of its own; it is done in this one instead", self._what)
            return self._work()
        status = self._ended()
        if not data:
            raise Ended(f"{self._what} ended {_ending(status)}")
        result, fault = pickle.loads(data)  # written by ourselves
        if fault is not None:
            raise UserError(fault)
        found: T = result
        return found

    def _ended(self) -> int:
        child, self._child = self._child, 0
        self._pipe.close()
        return os.waitpid(child, 0)[1]


def _answers(child: int, pipe: IO[bytes], when_long: str) -> bool:
    """Waits for the child's answer or end; False: it sleeps for good.

    A lock that another thread of the parent held at the moment of forking is never released in the child.
    """
    before, still = -1.0, 0
    while not select.select([pipe], [], [], CHECK)[0]:
        now, sleeps = _cpu_seconds(child)
        still = still + 1 if sleeps and now == before else 0
        before = now
        if when_long and now >= LONG:
            logger.info("%s", when_long)
            when_long = ""
        if still * CHECK >= STANDS_STILL:
            return False
    return True


def _cpu_seconds(process: int) -> tuple[float, bool]:
    """Processor time of a process and of those that it waits for, and whether all of them sleep.

    Where the system does not say, none sleeps.
    """
    try:
        fields = read_text(f"/proc/{process}/stat").rpartition(")")[2].split()
        started = read_text(f"/proc/{process}/task/{process}/children").split()
    except OSError:
        return 0.0, False
    own = (float(fields[11]) + float(fields[12])) / os.sysconf("SC_CLK_TCK")
    others = [_cpu_seconds(int(each)) for each in started]
    return own + sum(each for each, _ in others), fields[0] == "S" and all(sleeps for _, sleeps in others)


class Ended(UserError):
    """The process ended without a result."""


def _send(work: Callable[[], object], write: int) -> NoReturn:
    """Of the child: its result or what is wrong, then its end, without the parent's exit handlers."""
    try:
        faulthandler.disable()
        torch.set_num_threads(1)  # the parent's threads were not forked
        try:
            answer = (work(), None)
        except UserError as e:
            answer = (None, str(e))  # type: ignore[assignment]
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(0)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"by signal {number} ({signal.Signals(number).name})"
    return "without an answer"

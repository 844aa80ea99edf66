"""Work that may end the process, in a process of its own, where a crash becomes an error message.

`apart`. torch's exporter can end by a signal (a network that replaces its weights in `forward`), and a training run
must not end with it. Called by export.py.
"""

import faulthandler
import logging
import os
import pickle
import select
import signal
import warnings
from collections.abc import Callable
from typing import IO, NoReturn, TypeVar

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
    if not hasattr(os, "fork"):
        return work()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child uses none of them
        child = os.fork()
    if not child:
        os.close(read)
        _send(work, write)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            moves = _answers(child, pipe, f"{what} has worked for more than a minute; {when_long}" if when_long else "")
            data = pipe.read() if moves else b""
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if not moves:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not moves:
        logger.warning("%s stood still in a process of its own; it is done in this one instead", what)
        return work()
    if not data:
        raise Ended(f"{what} ended {_ending(status)}")
    result, fault = pickle.loads(data)  # written by ourselves
    if fault is not None:
        raise UserError(fault)
    return result


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
    """Processor time of a process and whether it sleeps; where the system does not say, it does not sleep."""
    try:
        fields = read_text(f"/proc/{process}/stat").rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    return (float(fields[11]) + float(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "S"


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

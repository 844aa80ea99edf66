"""Work that may end the process, in a process of its own, where a crash becomes an error message.

`apart`. torch's exporter can end by a signal (a network that replaces its weights in `forward`), and a training run
must not end with it. Called by export.py.
"""

import faulthandler
import os
import pickle
import signal
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch

from compress.errors import UserError

T = TypeVar("T")


def apart(work: Callable[[], T], what: str) -> T:
    """The result of a function that runs in a forked process; in this one where there is no fork (Windows).

    Args:
        work: gives something that can be pickled; what else it changes is lost.
        what: it is, for people.

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
            data = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if not data:
        raise Ended(f"{what} ended {_ending(status)}")
    result, fault = pickle.loads(data)  # written by ourselves
    if fault is not None:
        raise UserError(fault)
    return result


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

"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (its terminal closes) end a run after the step under way, with everything saved.

`Interrupts` takes note of the first signal; the second one finds the system's own handler, which ends the process at
once. Called by the trainer.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from apputils.runs.console import Interrupted
from compress.distributed import max_over_ranks, several_processes

logger = logging.getLogger("run.signal")  # the search shows these, of all that its runs say
SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class Interrupts:
    """A context in which signals are noted instead of ending the process; nothing outside of the main thread.

    Attributes:
        asked: the signal that came, None while there was none.
        heard: the same, of any of several processes, as of their last message.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.heard: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Interrupts":
        self.asked = self.heard = None
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in SIGNALS if not _ignored_on_purpose(each)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def hear(self, number: int) -> None:
        """Takes a message of several processes, alike in all: the largest number of a signal that came, 0 for none."""
        self.heard = signal.Signals(number) if number else None

    @property
    def agreed(self) -> signal.Signals | None:
        """The signal after which all processes end with the same step; sends no message."""
        return self.heard if several_processes() else self.asked

    def end_if_asked(self, run: str) -> None:
        """Ends the run, in all processes alike; everything is saved.

        Raises:
            Interrupted: a signal came.
        """
        if several_processes():
            self.hear(int(max_over_ranks(torch.tensor(self.asked or 0))))
        if self.agreed:
            raise Interrupted(self.agreed, f"{self.agreed.name}: saved; --resume={run} continues from here")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, which Ctrl-C reaches too: it continues giving samples
            return
        self.asked = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        logger.warning(
            "%s: the run ends, and is saved, after this step (during validation: after it); once more ends it at once",
            self.asked.name,
        )


@contextmanager
def raising_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Interrupted` where they come; a run inside has its own `Interrupts` meanwhile.

    For work whose steps are saved one by one. SIGINT raises KeyboardInterrupt as always.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # once more ends it at once
        raise Interrupted(number, f"{signal.Signals(number).name}: everything is saved")

    mine = [each for each in SIGNALS if each != signal.SIGINT and not _ignored_on_purpose(each)]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    before = {each: signal.signal(each, end) for each in mine}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _ignored_on_purpose(each: signal.Signals) -> bool:
    """Whether `nohup` started the process, which is to outlive its terminal."""
    return each.name == "SIGHUP" and signal.getsignal(each) is signal.SIG_IGN

"""The curves of a sensitivity analysis, shared by any number of processes through Optuna's queue: `SharedCurves`.

A curve is a trial: one process has it at a time, and what a dead one has left is taken over.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from engine.search.study import next_queued, open_study, sampler_of, storage_errors

CURVE = "curve"


@dataclass(frozen=True)
class SharedCurves:
    """The queue of one analysis.

    Attributes:
        folder: that all processes share.
    """

    folder: Path

    def take(self, names: Sequence[str]) -> Iterator[str]:
        """Names that no other process measures, one after another; one is done when the next is asked for."""
        with storage_errors(str(self.folder)):
            study = self._study(names)
            sampler = sampler_of("random", 0)  # which every trial of the queue leaves without work
            while (found := next_queued(study, self.folder, sampler)) is not None:
                trial, lock = found
                try:
                    yield trial.suggest_categorical(CURVE, list(names))
                    study.tell(trial, 0.0)
                finally:
                    lock.release()

    @property
    def left(self) -> int:
        """How many curves other processes still measure; asked after `take`."""
        with storage_errors(str(self.folder)):
            return sum(not each.state.is_finished() for each in self._study().get_trials(deepcopy=False))

    def _study(self, names: Sequence[str] = ()) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        study = open_study(self.folder, None, {}, True, 1)
        with FileLock(self.folder / "first"):
            if not study.get_trials(deepcopy=False):
                for name in names:
                    study.enqueue_trial({CURVE: name})
        return study


def worker_name() -> str:
    """Of this process among those that share a folder."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}"

"""One runtime in a process of its own: reads commands from standard input, answers on standard output. No torch.

    python -m compress.export.runtimes.worker openvino

What the runtime prints itself goes to standard error, which client.py keeps in a file.
"""

import contextlib
import ctypes
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.export.layer_times import sweep_times
from compress.export.runtimes.base import Array, Converted, Loaded, Runtime, Source
from compress.export.runtimes.table import RUNTIMES

PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
LENGTH = 300  # characters of an error
POSITION = re.compile(r"(Exception from|Check '.*' failed at) \S*src/|FrontEnd API failed")  # in OpenVINO's own code


class Worker:
    """What a process can be told; the names of the methods are the commands.

    Args:
        runtime: that runs here.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loaded: dict[str, Loaded] = {}
        self._inputs: dict[str, list[Array]] = {}

    def precisions(self, quantized: bool) -> tuple[str, ...]:
        """See `Runtime.precisions`."""
        return self._runtime.precisions(quantized)

    def convert(self, source: Source, folder: str) -> Converted:
        """See `Runtime.convert`."""
        return self._runtime.convert(source, folder)

    def load(self, key: str, file: str, precision: str, threads: int, inputs: Sequence[Array], fixed: bool) -> None:
        """Loads a file under a name, with the inputs that it is timed on; `fixed`: it is run on their sizes only."""
        shapes = [each.shape for each in inputs] if fixed else None
        self._loaded[key] = self._runtime.load(file, precision, threads, shapes)
        self._inputs[key] = list(inputs)

    def run(self, key: str, inputs: Sequence[Array]) -> list[Array]:
        """Outputs of a loaded file."""
        return self._loaded[key].run(inputs)

    def kernels(self, key: str, layers: Sequence[str]) -> list[str] | None:
        """See `Loaded.kernels`."""
        return self._loaded[key].kernels(layers)

    def values(self, file: str, names: Sequence[str], inputs: Sequence[Sequence[Array]]) -> list[dict[str, Array]]:
        """See `Runtime.values`."""
        return self._runtime.values(file, names, inputs)

    def layer_times(self, files: Sequence[Path], slowest: int, threads: int) -> list[float]:
        """See `sweep_times`."""
        return sweep_times(files, slowest, threads, self._runtime.name)

    def seconds(self, key: str, calls: int, processor: bool = False) -> float:
        """Mean time of a run on the inputs that it was loaded with; or processor time, of all of this process."""
        loaded, inputs = self._loaded[key], self._inputs[key]
        clock = time.process_time if processor else time.perf_counter
        started = clock()
        for _ in range(calls):
            loaded.run(inputs)
        return (clock() - started) / calls


def main() -> None:
    """Answers until standard input ends, or the process that asks does."""
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(RUNTIMES[sys.argv[1]])
    while True:
        try:
            command, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: tuple[Any, str | None] = (getattr(worker, command)(*arguments), None)
        except Exception as e:  # a runtime's errors share no base class
            answer = (None, _one_line(e))
        pickle.dump(answer, answers)
        answers.flush()


def _end_with_parent() -> None:
    """Has Linux end this process when its parent was killed: in a conversion that hangs nobody would read the end of
    standard input."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


def _one_line(error: Exception) -> str:
    """What an error says: its first lines, or the last ones of an OpenVINO error, which begins with the outermost."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not POSITION.match(line)]
    text = " ".join(lines[:3])[:LENGTH] if said == lines else " ".join(said[-3:])[-LENGTH:]
    return text or type(error).__name__


if __name__ == "__main__":
    main()

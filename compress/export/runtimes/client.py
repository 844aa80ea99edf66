"""The other end of worker.py: a runtime in a process that may crash, hang or be missing, and is said to be so.

`RuntimeProcess`, `RuntimeModel` (called like a network), `RuntimeTurn` (to be timed), `RuntimeFailure`.
"""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.export.latency import Turn
from compress.export.onnx.check import Inputs

LIMIT = 300.0  # seconds of one conversion or run
ROOT = Path(__file__).resolve().parents[3]  # of the package, for the child's imports


class RuntimeFailure(UserError):
    """A runtime failed, crashed or hung; one sentence."""


class RuntimeProcess:
    """A worker, started when it is first asked and again after it ended; use as a context.

    Args:
        name: of the runtime.
        limit: seconds that one answer may take.
    """

    def __init__(self, name: str, limit: float = LIMIT) -> None:
        self.name, self.limit = name, limit
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._loads: dict[str, tuple[Any, ...]] = {}

    def __enter__(self) -> "RuntimeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._log.close()

    def load(self, key: str, *arguments: Any) -> None:
        """Loads a file, now and whenever the process has to be started again."""
        self.call("load", key, *arguments)
        self._loads[key] = arguments

    def call(self, command: str, *arguments: Any) -> Any:
        """A worker's answer.

        Raises:
            RuntimeFailure: it refuses, has crashed, or does not answer in time; the next call starts it again.
        """
        if self._process is None:
            self._start()
            for key, given in self._loads.items():
                self._ask("load", (key, *given))
        return self._ask(command, arguments)

    def _ask(self, command: str, arguments: tuple[Any, ...]) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((command, arguments), process.stdin)
            process.stdin.flush()
            if not select.select([process.stdout], [], [], self.limit)[0]:
                self._end()
                raise RuntimeFailure(f"{self.name} did not finish `{command}` within {self.limit:g} s and was ended")
            answer, fault = pickle.load(process.stdout)  # written by our own worker
        except (EOFError, OSError, pickle.UnpicklingError) as e:
            raise RuntimeFailure(f"{self.name} ended in `{command}` {self._ending()}") from e
        if fault is not None:
            raise RuntimeFailure(f"{self.name}: {fault}")
        return answer

    def _start(self) -> None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compress.export.runtimes.worker", self.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    def _ending(self) -> str:
        """How the process ended, with the last line that it wrote."""
        process = self._process
        assert process is not None
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            code = 0
        self._end()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        return how + (f": {lines[-1][:200]}" if lines else "")

    def _end(self) -> None:
        """Ends the process and what it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(ProcessLookupError):  # also what a process that has crashed left running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class RuntimeTurn(Turn):
    """A loaded file, timed in the process of its runtime.

    Args:
        process: of the runtime.
        key: of the loaded file.
        processor: processor time, instead of the clock's.
    """

    def __init__(self, process: RuntimeProcess, key: str, processor: bool = False) -> None:
        self._process, self._key, self._processor = process, key, processor

    def seconds(self, calls: int) -> float:
        """See `Turn`."""
        return float(self._process.call("seconds", self._key, calls, self._processor))


class OtherSizes(UserError):
    """Inputs have other sizes than a runtime's file was made for.

    Args:
        own: shape of the first input of the file.
        given: of the data.
    """

    def __init__(self, own: Sequence[int], given: Sequence[int]) -> None:
        super().__init__(
            f"not evaluated: the file takes inputs of {tuple(own)} and the data has {tuple(given)}; give test data of "
            "that size"
        )


class RuntimeModel(nn.Module):
    """A network in a runtime, to be called in its place.

    Args:
        process: of the runtime.
        key: of the loaded file.
        shapes: the only ones that it takes, batches being taken apart; None: any.
    """

    def __init__(self, process: RuntimeProcess, key: str, shapes: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self._process, self._key, self._shapes = process, key, shapes

    def forward(self, *inputs: Tensor) -> Any:
        """Inputs of the network -> its output, or a tuple of several."""
        found = [each.to(inputs[0].device) for each in self._in_batches(inputs)]
        return found[0] if len(found) == 1 else tuple(found)

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """The outputs on the CPU."""
        arrays = [each.detach().cpu().numpy() for each in inputs]
        return [torch.from_numpy(each) for each in self._process.call("run", self._key, arrays)]

    def _in_batches(self, inputs: Inputs) -> list[Tensor]:
        if self._shapes is None or [list(each.shape) for each in inputs] == [list(each) for each in self._shapes]:
            return self.outputs(inputs)
        if self._shapes[0][0] != 1 or any(
            tuple(x.shape[1:]) != tuple(s[1:]) for x, s in zip(inputs, self._shapes, strict=True)
        ):
            raise OtherSizes(self._shapes[0], tuple(inputs[0].shape))
        parts = [self.outputs(tuple(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

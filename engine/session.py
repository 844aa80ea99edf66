"""What a run holds while its process lives: its folders, their lock, log files, warnings, signals.

`RunSession`; nothing of it is saved.
"""

import signal
from contextlib import ExitStack
from types import TracebackType

from apputils.checkpoints.rotation import remove_leftovers
from apputils.runs.console import Interrupted
from apputils.runs.folders import Run
from apputils.runs.lock import hold
from apputils.runs.logger import NoFiles, RunLogger
from apputils.runs.run_warnings import RunWarnings
from compress.distributed import is_first
from engine.signals import Interrupts


class RunSession:
    """A context: at its end files are closed and the lock is given back; see `warnings` and `interrupts` for theirs.

    A KeyboardInterrupt inside becomes an `Interrupted` that says whether there is something to resume.

    Attributes:
        files: what epochs are logged to; nothing before `open_files`, and in all processes but the first.
        warnings: of the run.
        interrupts: signals that end the run after a step.
    """

    def __init__(self) -> None:
        self.files: RunLogger = NoFiles()
        self.warnings = RunWarnings()
        self.interrupts = Interrupts()
        self._run: Run | None = None
        self._held = ExitStack()

    def __enter__(self) -> "RunSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if kind is KeyboardInterrupt:  # while data are loaded, or once more: the signals of the loop are noted
            raise Interrupted(signal.SIGINT, f"interrupted; {self._left()}") from error

    def _left(self) -> str:
        """What there is after an interrupt."""
        if self._run is not None and self._run.kept_files():
            return f"--resume={self._run.name} continues from what was saved"
        return "nothing was saved yet, so there is no run to resume"

    @property
    def run(self) -> Run:
        """The folders."""
        assert self._run is not None, "the session has no run yet: take one"
        return self._run

    @property
    def writes(self) -> bool:
        """Whether there are folders; a smoke run has none."""
        return self._run is not None

    def take(self, run: Run) -> None:
        """Makes a run this process's own; does nothing where it is already.

        Raises:
            UserError: another process has it.
        """
        if self._run == run:
            return
        if is_first():
            self._held.enter_context(hold(run))
            remove_leftovers(run)
        self._run = run

    def open_files(self, first_epoch: int) -> None:
        """Opens the log files, which continue before that epoch."""
        if is_first():
            self.files = RunLogger(self.run, first_epoch)
            self._held.callback(self.files.close)

    def end_if_asked(self) -> None:
        """Ends the run, which is saved.

        Raises:
            Interrupted: a signal came.
        """
        self.interrupts.end_if_asked(self.run.name)

"""Whether a run can write what it will write, found out before it starts.

`check_places`, `check_results`. A full disk below logs/ is no reason not to start (optional_files.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apputils.runs.folders import Run
from compress.errors import UserError
from compress.io.files import NO_SPACE, check_folder, check_place, why

OF_LOGS = ("log.txt", "metrics.csv", "options.yaml", "schedule.yaml", "activations.csv", "running.txt", "lock")
OF_RESULTS = ("summary.json", "sizes.csv")


def check_places(name: str | None) -> None:
    """The three folders of a run: each can be written, and nothing else stands where its files will.

    Args:
        name: of the run; None of a new one that has none yet.

    Raises:
        UserError: what cannot be written, all in one message.
    """
    faults: list[str] = []
    new = [top for top in ("logs", "results", "checkpoints") if not Path(top).exists()]
    for top, forgiven in (("logs", True), ("results", False), ("checkpoints", False)):
        with _noted(faults, forgiven):
            check_folder(top)
    for top in new:  # made to find out; a run that is refused for another reason leaves nothing
        with suppress(OSError):
            Path(top).rmdir()
    if name is not None and not faults:
        run = Run(name)
        for folder, forgiven in ((run.logs, True), (run.results, False), (run.checkpoints, False)):
            with _noted(faults, forgiven):
                if folder.exists():
                    check_folder(folder)
        for path in _files(run):
            with _noted(faults):
                check_place(path)
    if faults:
        raise UserError("\n  ".join(["the run could not write its files, so nothing was started:", *faults]))


def check_results(folder: Path) -> None:
    """Whether results can be written in a folder, before they are measured.

    Raises:
        UserError: they cannot.
    """
    try:
        check_folder(folder)
    except OSError as e:
        raise UserError(f"the results could not be written, so nothing was measured: {why(e)}") from e


def _files(run: Run) -> Iterator[Path]:
    yield from (run.logs / name for name in OF_LOGS)
    yield from (run.results / name for name in OF_RESULTS)
    yield from sorted({*run.checkpoints.glob("*.pt"), run.last, run.best, run.teachers})


@contextmanager
def _noted(faults: list[str], forgiven: bool = False) -> Iterator[None]:
    """Block whose OSError is a fault, unless it is a full disk and that is forgiven."""
    try:
        yield
    except OSError as e:
        if not (forgiven and e.errno in NO_SPACE):
            faults.append(why(e))

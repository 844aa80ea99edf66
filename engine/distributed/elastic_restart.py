"""A run that `torchrun` started again after a worker died continues with itself.

`open_run`, `run_to_go_on_with`, and the note by which a restarted process knows its own run. Called by
engine/commands/train.py and the trainer.

torchrun starts the same command again, which names no run. The note, `logs/<run>/torchrun.yaml`, holds the agent
process that started the run; a process with the same agent is the same run. Where the agent is another one, because
another machine is the first now, the restart count and the rendezvous id tell.
"""

import logging
import os
import socket
from pathlib import Path
from typing import Any

import yaml

from apputils.runs.folders import Run, new_run
from compress.distributed import is_first
from compress.io.files import read_text, why, write_text
from engine.distributed.process_group import told_by_first

logger = logging.getLogger("run")
NOTE = "torchrun.yaml"
NO_ID = ("", "none")  # what torchrun gives where no rendezvous is named


def run_to_go_on_with() -> str | None:
    """The run that this command has begun before and that has a checkpoint; None if this is not a restart."""
    name = _own_run() if is_first() else None
    name = told_by_first(name if name is not None and Run(name).kept_files() else None)
    if name is None:
        return None
    logger.info("started again by torchrun: resuming the run %s after its last checkpoint", name)
    return name


def open_run(resume: str | None, wanted: str | None, stem: str) -> Run:
    """The folders of a run that is resumed, was begun before, or is new; the same in every process.

    Args:
        resume: the run to continue with.
        wanted: a new run's name; None makes one of the stem.
        stem: see `new_run`.

    Raises:
        UserError: see `new_run`.
    """
    name = resume
    if name is None:
        name = told_by_first((_own_run() or new_run(wanted, stem).name) if is_first() else "")
    run = Run(name)
    if is_first() and "TORCHELASTIC_RUN_ID" in os.environ:
        try:
            write_text(_note(run), yaml.safe_dump(_starter()))
        except OSError as e:
            logger.warning("a run that torchrun starts again will not know itself, and begin anew: %s", why(e))
    return run


def close_run(run: Run) -> None:
    """The run is over: a command of the same rendezvous id is another run."""
    _note(run).unlink(missing_ok=True)


def _own_run() -> str | None:
    """The run whose note names this process's starter, the newest of several."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    me, again = _starter(), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    notes = sorted(Path("logs").glob(f"*/{NOTE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in notes:
        note = _read_note(path)
        same_job = again and me["id"] not in NO_ID and note.get("id") == me["id"]
        if note.get("agent") == me["agent"] or same_job:
            return path.parent.name
    return None


def _read_note(path: Path) -> dict[str, Any]:
    """What a run's note says; {} of one that cannot be read, which names nobody."""
    try:
        note = yaml.safe_load(read_text(path))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _starter() -> dict[str, Any]:
    agent = os.getppid()
    return {"id": os.environ["TORCHELASTIC_RUN_ID"], "agent": f"{socket.gethostname()} {agent} {_since(agent)}"}


def _since(process: int) -> str:
    """When a process began, as Linux counts it; a number is used again by later processes."""
    try:
        return read_text(f"/proc/{process}/stat").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _note(run: Run) -> Path:
    return run.logs / NOTE

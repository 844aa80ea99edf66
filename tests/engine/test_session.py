"""What a process holds of a run: its lock, and that it comes back."""

from pathlib import Path

import pytest

from apputils.runs.console import Interrupted
from apputils.runs.folders import Run
from apputils.runs.logger import NoFiles
from compress.errors import UserError
from engine.session import RunSession


def test_the_lock_is_held_until_the_end(here: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apputils.runs.lock.WAIT", 0.1)
    with RunSession() as first:
        first.take(Run("a"))
        first.take(Run("a"))  # its own already
        assert first.writes
        with pytest.raises(UserError, match="the run a is being trained by"), RunSession() as second:
            second.take(Run("a"))
    with RunSession() as third:
        third.take(Run("a"))
        assert third.run == Run("a")


def _interrupted(run: Run) -> None:
    with RunSession() as session:
        session.take(run)
        raise KeyboardInterrupt


def test_an_interrupt_says_whether_there_is_something_to_resume(here: Path) -> None:
    with pytest.raises(Interrupted, match="nothing was saved yet, so there is no run to resume") as ended, RunSession():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    with pytest.raises(Interrupted, match="nothing was saved yet"):
        _interrupted(Run("a"))
    Path("checkpoints/a").mkdir(parents=True)
    Path("checkpoints/a/last.pt").touch()
    with pytest.raises(Interrupted, match="--resume=a continues from what was saved"):
        _interrupted(Run("a"))


def test_a_session_without_a_run_writes_nothing() -> None:
    session = RunSession()
    assert not session.writes
    assert isinstance(session.files, NoFiles)
    with pytest.raises(AssertionError, match="no run yet"):
        _ = session.run

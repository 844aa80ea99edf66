"""What a process holds of a run: its lock, and that it comes back."""

import pytest

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


def test_a_session_without_a_run_writes_nothing() -> None:
    session = RunSession()
    assert not session.writes
    assert isinstance(session.files, NoFiles)
    with pytest.raises(AssertionError, match="no run yet"):
        _ = session.run

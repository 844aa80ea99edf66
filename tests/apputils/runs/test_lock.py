"""One process for each run, one folder for each run."""

import os
import threading
import time
from pathlib import Path

import pytest

from apputils.runs import lock
from apputils.runs.folders import Run, new_run
from apputils.runs.lock import hold
from compress.errors import UserError


def test_the_second_is_told_who_has_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT", 0.05)
    with (
        hold(Run("a")),
        pytest.raises(
            UserError, match=rf"the run a is being trained by process {os.getpid()} on .*Nothing was changed"
        ),
        hold(Run("a")),
    ):
        pass
    with hold(Run("a")), hold(Run("b")):
        pass


def test_the_lock_goes_with_its_process(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT", 5.0)
    child = os.fork()
    if child == 0:
        hold(Run("a")).__enter__()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert (Run("a").logs / "running.txt").read_text().startswith(f"process {child} ")
    with hold(Run("a")):
        pass


def test_many_runs_of_the_same_second_get_folders_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    gate, names = threading.Barrier(16), []

    def start() -> None:
        gate.wait()
        names.append(new_run(None, "SR").name)

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 16

"""A restarted process knows its own run by the note that its starter left."""

import os
from pathlib import Path

import pytest

from apputils.runs.folders import Run
from compress.errors import UserError
from engine.distributed import elastic_restart as restart
from engine.distributed.elastic_restart import close_run, open_run, run_to_go_on_with


def under_torchrun(monkeypatch: pytest.MonkeyPatch, restarts: int = 0, job: str = "none", agent: int = 0) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
    if agent:
        monkeypatch.setattr(restart.os, "getppid", lambda: agent)


def saved(run: Run) -> None:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.last.touch()


def test_without_torchrun_nothing_is_noted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    run = open_run(None, "a", "SR")
    saved(run)
    assert run_to_go_on_with() is None
    assert not list(here.rglob("torchrun.yaml"))
    with pytest.raises(UserError, match="there is a run of that name"):
        open_run(None, "a", "SR")


def test_the_same_starter_goes_on_with_its_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_torchrun(monkeypatch)
    run = open_run(None, None, "SR-plain")
    assert run_to_go_on_with() is None  # nothing was saved yet: it begins anew, in the same folder
    assert open_run(None, None, "SR-plain") == run
    saved(run)
    assert run_to_go_on_with() == run.name
    close_run(run)
    assert run_to_go_on_with() is None


def test_another_starter_is_another_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_torchrun(monkeypatch)
    saved(open_run(None, "a", "SR"))
    under_torchrun(monkeypatch, restarts=1, agent=os.getpid())
    assert run_to_go_on_with() is None


def test_another_machine_knows_the_rendezvous_after_a_restart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_torchrun(monkeypatch, job="job7")
    saved(open_run(None, "a", "SR"))
    under_torchrun(monkeypatch, job="job7", agent=os.getpid())
    assert run_to_go_on_with() is None  # the same id, but no restart: a new job
    under_torchrun(monkeypatch, restarts=1, job="job7", agent=os.getpid())
    assert run_to_go_on_with() == "a"

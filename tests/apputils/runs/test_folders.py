"""Runs: names are claimed once, the newest is found."""

import os
from pathlib import Path

import pytest

from apputils.runs.folders import Run, find_run, new_run, run_to_resume
from compress.errors import UserError


def _finished(name: str, age: int) -> None:
    run = Run(name)
    run.checkpoints.mkdir(parents=True)
    run.best.touch()
    run.last.touch()
    os.utime(run.last, (1000 - age, 1000 - age))


def test_two_runs_of_the_same_second_get_two_folders(here: Path) -> None:
    names = {new_run(None, "SR-agp").name for _ in range(5)}
    assert len(names) == 5


def test_a_taken_name_is_refused_with_the_way_to_go_on(here: Path) -> None:
    new_run("mine", "SR")
    with pytest.raises(UserError, match="--resume=mine continues with it"):
        new_run("mine", "SR")


@pytest.mark.parametrize("name", ["a/b", "..", "", "/tmp/x"])
def test_a_name_is_one_folder(here: Path, name: str) -> None:
    with pytest.raises(UserError, match="one folder name"):
        new_run(name, "SR")


def test_the_newest_run_or_the_one_named(here: Path) -> None:
    with pytest.raises(UserError, match="train one first"):
        find_run(None)
    _finished("old", 10)
    _finished("new", 5)
    assert find_run(None).name == "new"
    assert find_run("old").name == "old"
    with pytest.raises(UserError, match="there is no run 'odl' with a checkpoint; did you mean 'old'"):
        find_run("odl")


def test_a_run_without_a_finished_epoch_can_be_resumed_but_not_evaluated(here: Path) -> None:
    _finished("old", 10)
    Run("begun").checkpoints.mkdir()
    Run("begun").kept(1).touch()  # killed between two renames
    assert find_run(None).name == "old"
    assert run_to_resume("begun") == Run("begun")


def test_why_a_run_cannot_be_resumed(here: Path) -> None:
    _finished("old", 10)
    with pytest.raises(UserError, match="there is no run 'odl' with a checkpoint; did you mean 'old'"):
        run_to_resume("odl")
    new_run("dead", "SR")
    with pytest.raises(UserError, match="'dead' ended before it had saved anything.*removing logs/dead"):
        run_to_resume("dead")

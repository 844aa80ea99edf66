"""The last checkpoints of a run."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.rotation import load_last, progress, remove_leftovers, save_last
from apputils.runs.folders import Run
from compress.errors import UserError
from tests import disks

RUN = Run("a")


def content(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "middle": None, "weights": torch.full((1000,), float(epoch))}


def names() -> list[str]:
    return sorted(path.name for path in RUN.checkpoints.iterdir())


def test_as_many_are_kept_as_asked_for(here: Path) -> None:
    for epoch in range(5):
        save_last(RUN, content(epoch), keep=3)
    assert names() == ["last.1.pt", "last.2.pt", "last.pt"]
    assert [load_last(RUN)["epoch"], *(torch.load(RUN.kept(i))["epoch"] for i in (1, 2))] == [4, 3, 2]
    save_last(RUN, content(5), keep=1)
    assert names() == ["last.pt"]


@pytest.mark.parametrize("damage", [lambda data: data[:-700], lambda data: data[:2000] + b"?" + data[2001:]])
def test_a_damaged_one_is_told_and_the_one_before_is_used(
    here: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    for epoch in range(2):
        save_last(RUN, content(epoch), keep=2)
    RUN.last.write_bytes(damage(RUN.last.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert load_last(RUN)["epoch"] == 0
    assert "checkpoints/a/last.pt" in caplog.messages[0]
    assert "damaged" in caplog.messages[0]
    assert caplog.messages[1].endswith("checkpoints/a/last.1.pt: epoch 0 finished")
    RUN.kept(1).write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint of the run a can be read: .*last.pt, .*last.1.pt"):
        load_last(RUN)


class Death(BaseException):
    """The process is gone: no handler of ours runs."""


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_process_that_dies_at_any_rename_leaves_a_good_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    for epoch in range(2):
        save_last(RUN, content(epoch), keep=3)
    replace, done = Path.replace, []

    def dying(self: Path, target: Path) -> None:
        if len(done) == renames:
            raise Death
        done.append(replace(self, target))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        with pytest.raises(Death):
            save_last(RUN, content(2), keep=3)
    assert load_last(RUN)["epoch"] == 1
    remove_leftovers(RUN)
    assert all(name.startswith("last") for name in names())


def test_a_full_disk_leaves_what_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_last(RUN, content(0), keep=2)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"could not be written: .*No space left on device"):
        save_last(RUN, content(1), keep=2)
    assert names() == ["last.pt"]
    assert load_last(RUN)["epoch"] == 0


def test_where_a_checkpoint_stands() -> None:
    assert progress({"epoch": -1, "middle": None}) == "before the first epoch"
    assert progress({"epoch": 3, "middle": {"step": 5, "steps": 9}}) == "epoch 4, 5 of 9 steps"


@pytest.fixture
def small_disk(here: Path) -> Iterator[None]:
    """`checkpoints/` is a disk of 1 MiB."""
    with disks.small_disk("checkpoints", "1m"):
        yield


def test_a_disk_that_is_really_full(small_disk: None) -> None:
    save_last(RUN, {"epoch": 0, "weights": torch.ones(100_000)}, keep=2)  # 0.4 MB
    save_last(RUN, {"epoch": 1, "weights": torch.ones(100_000)}, keep=2)
    with pytest.raises(UserError, match=r"could not be written: the disk is full: .*No space.*; the last good one"):
        save_last(RUN, {"epoch": 2, "weights": torch.ones(100_000)}, keep=2)
    assert names() == ["last.1.pt", "last.pt"]
    assert load_last(RUN)["epoch"] == 1

"""Checkpoints: whole or not at all, nothing executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.file import FORMAT, load_checkpoint, save_checkpoint
from compress.errors import UserError


class Malicious:
    """Unpickling it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a" / "last.pt"
    save_checkpoint(path, {"weights": torch.arange(3), "name": "x", "numbers": [1, 2.5, None]})
    content = load_checkpoint(path)
    assert torch.equal(content["weights"], torch.arange(3))
    assert content["numbers"] == [1, 2.5, None]
    assert [each.name for each in path.parent.iterdir()] == ["last.pt"]


def test_the_last_good_file_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"not be written: the disk is full: .*No space left.*last good one is left"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path)["epoch"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    torch.save({"format": 1, "x": Malicious(str(target))}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="holds code"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad.pt"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    save_checkpoint(path, {"weights": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match="cannot be read as a checkpoint, it may be damaged"):
        load_checkpoint(path)


def test_a_missing_file_and_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"format": 99}, tmp_path / "new.pt")
    with pytest.raises(UserError, match="is of format 99: a newer version .* wrote it; this version reads formats 1"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="holds weights alone .1 tensors., from which `train.py --weights=.*bare.pt`"):
        load_checkpoint(tmp_path / "bare.pt")


@pytest.mark.parametrize("number", [None, "2", 0, -1, 1.0, torch.arange(3)])
def test_what_is_no_number_of_a_format_is_refused(tmp_path: Path, number: Any) -> None:
    torch.save({"format": number}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="this version reads formats 1"):
        load_checkpoint(tmp_path / "odd.pt")


def test_format_1_had_no_checksum_and_becomes_todays(tmp_path: Path) -> None:
    torch.save({"format": 1, "epoch": 3}, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt") == {"format": FORMAT, "epoch": 3, "middle": None, "middles": []}

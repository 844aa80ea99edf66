"""The checksum at a file's end."""

import errno
import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.checksum import LENGTH, ChecksumWriter, check_checksum
from apputils.checkpoints.file import Damaged, load_checkpoint, save_checkpoint
from compress.errors import UserError

CONTENT = {"weights": torch.arange(4000.0), "name": "x"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    return path


def test_the_checksum_is_that_of_all_bytes_before_it_and_torch_reads_the_file(file: Path) -> None:
    data = file.read_bytes()
    assert data[-LENGTH:] == b"\nsha256 " + hashlib.sha256(data[:-LENGTH]).hexdigest().encode() + b"\n"
    assert check_checksum(file) == "whole"
    assert torch.equal(torch.load(file, weights_only=True)["weights"], CONTENT["weights"])


def test_every_flipped_bit_is_found(file: Path) -> None:
    data = file.read_bytes()
    for place in [*range(0, len(data), 97), *range(len(data) - LENGTH - 30, len(data))]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(Damaged, match=r"last.pt"):
            load_checkpoint(file)


def test_every_cut_is_found(file: Path) -> None:
    data = file.read_bytes()
    for length in [*range(0, len(data), 211), *range(len(data) - LENGTH - 2, len(data))]:
        file.write_bytes(data[:length])
        with pytest.raises(Damaged, match=r"last.pt"):
            load_checkpoint(file)


def test_a_file_of_zeros_and_added_bytes_are_damage(file: Path) -> None:
    data = file.read_bytes()
    for changed in (bytes(len(data)), data + b"\0", data + data):
        file.write_bytes(changed)
        with pytest.raises(Damaged):
            load_checkpoint(file)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint") as e:
        load_checkpoint(tmp_path / "last.pt")
    assert not isinstance(e.value, Damaged)


class Full(BytesIO):
    """A disk with room for a thousand bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_named_where_torch_does_not_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ChecksumWriter(Full())
    with pytest.raises(Exception, match=r"enforce fail|No space|write"):
        torch.save(CONTENT, writer)
    assert writer.fault is not None
    assert writer.fault.errno == errno.ENOSPC
    monkeypatch.setattr("apputils.checkpoints.file.ChecksumWriter", lambda file: ChecksumWriter(Full()))
    with pytest.raises(UserError, match=r"last.pt could not be written: the disk is full: No space left"):
        save_checkpoint(tmp_path / "last.pt", CONTENT)
    assert not list(tmp_path.iterdir())

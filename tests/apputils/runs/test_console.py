"""Exit codes of the entry points."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from apputils.runs.console import Interrupted, exit_codes
from compress.errors import UserError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("no such thing"), 2, "error: no such thing"),
        (Interrupted(2, "SIGINT: saved"), 130, "SIGINT: saved"),
        (Interrupted(15, "SIGTERM: saved"), 143, "SIGTERM: saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "logs/a/metrics.csv"), 2, "the disk is full: logs/a/metr"),
        (OSError(errno.EROFS, "Read-only file system", "results/a\x1b[2J"), 2, r"results/a\x1b[2J: Read-only file"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "error: Too many open files"),
        (OSError("no number"), 2, "error: no number"),
    ],
)
def test_how_a_run_ends(error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    @exit_codes
    def main() -> Any:
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert words in capsys.readouterr().err


def test_a_present_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(SystemExit) as end:
        exit_codes(lambda: pytest.fail("it starts"))()
    assert end.value.code == 2
    assert "error: the present folder cannot be used, it may have been removed: " in capsys.readouterr().err


def test_an_error_of_a_loading_process_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    class Damaged(Dataset[int]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> int:
            raise UserError("none of 3 images can be decoded")

    with pytest.raises(SystemExit) as ended:
        exit_codes(lambda: list(DataLoader(Damaged(), num_workers=1)))()  # type: ignore[func-returns-value]
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: none of 3 images can be decoded\n"

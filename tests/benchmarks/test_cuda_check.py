"""The check on a GPU, with parts that fail, overrun or need what is not there."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cuda_check


def test_every_part_is_kept_whatever_another_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    seen: list[list[str]] = []

    def works(check: cuda_check.Check) -> dict[str, int]:
        seen.append(list(json.loads(out.read_text())["parts"]))
        check.until = time.monotonic()
        return {"a": 1}

    def fails(check: cuda_check.Check) -> None:
        raise KeyError("some name")

    monkeypatch.setattr(cuda_check.Check, "steps", fails)
    monkeypatch.setattr(cuda_check.Check, "amp", works)
    words = ["--device=cpu", f"--out={out}", "--only", "sparse", "steps", "amp", "thinning"]
    monkeypatch.setattr(sys, "argv", ["cuda_check.py", *words])
    assert cuda_check.main() == 1
    found = json.loads(out.read_text())["parts"]
    assert seen == [["sparse", "steps"]]  # written before the next part began
    assert found["steps"]["failed"] == "KeyError: 'some name'"
    assert found["amp"]["result"] == {"a": 1}
    assert "left out: sparse (needs CUDA), thinning (the time was over)" in capsys.readouterr().out

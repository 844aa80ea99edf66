"""The check on a GPU, with parts that fail, hang, die or need what is not there."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cuda_check


def test_every_part_is_kept_whatever_another_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"

    def works(check: cuda_check.Check) -> list[str]:
        return list(json.loads(out.read_text())["parts"])

    def fails(check: cuda_check.Check) -> None:
        raise KeyError("some name")

    def hangs(check: cuda_check.Check) -> None:
        (tmp_path / "group").write_text(str(os.getpgid(0)))
        time.sleep(60)

    def dies(check: cuda_check.Check) -> None:
        os._exit(3)

    for name, part in (("steps", fails), ("amp", works), ("thinning", hangs), ("runtimes", dies)):
        monkeypatch.setattr(cuda_check.Check, name, part)
    monkeypatch.setitem(cuda_check.PARTS, "thinning", 0.5)
    parts = ["sparse", "steps", "thinning", "runtimes", "amp"]
    monkeypatch.setattr(sys, "argv", ["cuda_check.py", "--device=cpu", f"--out={out}", "--only", *parts])
    assert cuda_check.main() == 1
    content = json.loads(out.read_text())
    found = content["parts"]
    assert found["steps"]["failed"] == "KeyError: 'some name'"
    assert found["runtimes"]["failed"] == "its process ended with code 3"
    assert found["amp"]["result"] == ["sparse", "steps", "thinning", "runtimes"]  # written before the next part began
    assert content["cut"] == ["thinning"]
    assert int((tmp_path / "group").read_text()) != os.getpgid(0)
    printed = capsys.readouterr().out
    assert "left out: sparse (needs CUDA)" in printed
    assert "cut: thinning (ended after 0 s)" in printed


def test_no_part_begins_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--device=cpu", f"--out={tmp_path / 'found.json'}", "--minutes=0", "--only", "amp"]
    monkeypatch.setattr(sys, "argv", ["cuda_check.py", *words])
    assert cuda_check.main() == 0
    assert "left out: amp (the time was over)" in capsys.readouterr().out

"""What the table of thinned models says of a tool that is not there, and of a process that fails."""

import argparse
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import thinning_zoo

OPTIONS = argparse.Namespace(threads=1, family="classification", size=None, timeout=9)


def test_a_tool_that_is_absent_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert thinning_zoo.competitor_row("resnet18", 32) == {"note": "not installed"}


@pytest.mark.parametrize(
    ("stderr", "note"),
    [("Traceback ...\n    a b\n    ^^^^^\nValueError: no such model\n", "ValueError: no such model"), ("", "signal 9")],
)
def test_a_process_that_fails_is_quoted_by_its_last_line(
    monkeypatch: pytest.MonkeyPatch, stderr: str, note: str
) -> None:
    def run(command: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(command, -9, "", stderr)

    monkeypatch.setattr(thinning_zoo.subprocess, "run", run)
    assert thinning_zoo.child([], OPTIONS)["note"].endswith(note)

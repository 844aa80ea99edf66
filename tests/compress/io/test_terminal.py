"""Output that is closed, full or not there ends no program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import logging, os, sys
from apputils.runs.console import exit_codes

@exit_codes
def main():
    for i in range(3000):
        logging.getLogger("run").info("line %d %s", i, "x" * 100)
        print("printed")
        logging.getLogger("run").warning("warned") if i % 1000 == 0 else None
    os.write(int(sys.argv[1]), b"done")
    with open("next", "w") as file:  # takes no descriptor of a stream
        assert file.fileno() > 2
main()
"""


def run(here: Path, redirect: str, *options: str) -> tuple[int, str, str]:
    """Exit code, standard error, and what was written at its end, of the program under a shell's redirection."""
    (here / "program.py").write_text(PROGRAM)
    read, write = os.pipe()
    line = f"{sys.executable} {' '.join(options)} program.py {write} {redirect}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=here, env=environment, pass_fds=[write], capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as file:
        return ended.returncode, ended.stderr, file.read()


@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize(
    "redirect", ["| head -1", ">/dev/full", "2>/dev/full >/dev/null", ">&- 2>&- <&-", "2>&1 | true"]
)
def test_the_program_goes_on(here: Path, redirect: str, options: tuple[str, ...]) -> None:
    code, error, done = run(here, redirect, *options)
    assert (code, done) == (0, "done")
    assert "Traceback" not in error
    assert "Logging error" not in error
    assert "Exception ignored" not in error
    if redirect == ">/dev/full":
        assert error.count("standard output cannot be written (No space left on device)") == 1


def test_everything_arrives_where_nothing_is_lost(here: Path) -> None:
    code, _, _ = run(here, ">out.txt")
    assert code == 0
    assert (here / "out.txt").read_text().count("\n") == 6000


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compress.config list", "apputils.checkpoints.file --help"])
def test_commands_end_well_in_a_closed_pipe(command: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m {command} | true"
    ended = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")

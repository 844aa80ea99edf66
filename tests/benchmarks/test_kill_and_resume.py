"""Real processes, killed and resumed."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import KINDS, Moment, choose

ROOT = Path(__file__).resolve().parents[2]


def test_kills_take_turns_between_phases_after_the_first_save() -> None:
    told = ["saving", "step", "validation", "saving", "step", "thinning", "step"]
    moments = [Moment(float(i), phase, 0, i) for i, phase in enumerate(told)]
    chosen = [choose(moments, number, random.Random(number)) for number in range(8)]
    assert [told[index] for index, _ in chosen] == ["saving", "step", "thinning", "validation"] * 2
    assert all(index >= 1 and 0 <= delay <= 1 for index, delay in chosen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_killed_runs_end_as_if_nobody_had_killed_them(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/kill_and_resume.py", "--kills=4", f"--only={kind}", f"--folder={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "DIFFERS" not in ended.stdout
    assert ended.stdout.count("identical") >= 4

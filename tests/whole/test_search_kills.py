"""A search whose process is killed again and again finds what an undisturbed one finds, and ends with all its files."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_images import tiny_images

optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).resolve().parents[2]
GOALS = "goals:\n  - {metric: macs, at_most: 8_000_000_000}\n  - {metric: psnr, drop_at_most: 60}\n"
TRIALS, KILLS = 4, 5


def command(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *arguments], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[bytes], code: int = 0) -> None:
    error = process.communicate()[1].decode()
    assert process.returncode == code, error[-2000:]


def killed_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Kills a process once it has computed for so long: on a busy machine that is the same moment of its work."""
    while process.poll() is None and cpu_seconds(process.pid) < seconds:
        time.sleep(0.1)
    process.kill()
    process.wait()


def cpu_seconds(pid: int) -> float:
    """Of a process, by the system's own count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def found(study: str) -> list[Any]:
    kept = optuna.load_study(
        study_name=study,
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(f"studies/{study}/journal.log")
        ),
    )
    return [(each.number, each.state.name, each.params, each.intermediate_values) for each in kept.trials]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads CPU times from /proc")
def test_a_killed_search_goes_on(here: Path) -> None:
    tiny_images(here)
    Path("goals.yaml").write_text(GOALS)
    dense = [
        "--traindata=images/train",
        "--samples=12",
        "--patch_size=24",
        "--batchSize=4",
        "--nEpochs=2",
        "--run=dense",
    ]
    finished(command("train.py", *dense))
    common = ["--goals=goals.yaml", "--start-from=dense", f"--trials={TRIALS}", "--minutes=30"]
    finished(command("search.py", "--study=whole", *common))
    Path("studies/killed").mkdir(parents=True)
    shutil.copy("studies/whole/latency_model.json", "studies/killed/latency_model.json")  # times differ, trials do not
    when, arguments = random.Random(0), ["--study=killed", *common]
    for _ in range(KILLS):
        process = command("search.py", *arguments)
        killed_after(process, when.uniform(6, 20))
        if Path("studies/killed/study.json").is_file():
            arguments = ["--study=killed", "--resume", f"--trials={TRIALS}", "--minutes=30"]
    finished(command("search.py", *arguments))
    assert found("killed") == found("whole")
    assert {"best.yaml", "best.pt", "report.html", "result.json"} <= {
        path.name for path in Path("studies/killed").iterdir()
    }

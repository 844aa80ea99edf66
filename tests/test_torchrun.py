"""`train.py` under `torchrun` as a user types it: every application, a worker that is killed, a wrong option."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apputils.checkpoints.file import load_checkpoint
from tests.applications import CASES
from tests.tiny_images import tiny_images

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds


def torchrun(folder: Path, *arguments: str, restarts: int = 0) -> subprocess.Popen[str]:
    """Two processes, started in a folder; what they say goes to `said.txt`."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            f"--max-restarts={restarts}", "--", str(ROOT / "train.py"), *arguments]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(line, cwd=folder, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment)


def workers(agent: int) -> list[int]:
    """The processes that `torchrun` started."""
    return [int(each) for each in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


def wait_for(what: Callable[[], bool], started: subprocess.Popen[str], said: Path) -> None:
    """Until something is so; fails when the processes have ended or patience has."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert started.poll() is None, said.read_text()
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with tiny images."""
    tiny_images(tmp_path, test=0)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("application", list(CASES))
def test_every_application_trains_in_two_processes(folder: Path, application: str) -> None:
    started = torchrun(
        folder, f"--optform={application}", *CASES[application].small_run, "--nEpochs=2", "--check-ranks", "--run=two"
    )
    assert started.wait(PATIENCE) == 0, (folder / "said.txt").read_text()
    said = (folder / "said.txt").read_text()
    assert said.count("epoch 1/1") == 1
    assert "x 2 processes" in said
    assert json.loads((folder / "results/two/summary.json").read_text())["epochs"] == 2
    assert load_checkpoint(folder / "checkpoints/two/last.pt")["processes"] == 2


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_at_last_ends_the_run(folder: Path) -> None:
    """One restart is allowed: after the first kill the run continues from its checkpoint, after the second it ends."""
    last, said = folder / "checkpoints/r/last.pt", folder / "said.txt"
    started = torchrun(folder, *CASES["SR"].small_run, "--nEpochs=100000", "--run=r", restarts=1)
    try:
        wait_for(last.is_file, started, said)
        os.kill(workers(started.pid)[1], signal.SIGKILL)
        wait_for(lambda: "resuming the run r after its last checkpoint" in said.read_text(), started, said)
        epoch = load_checkpoint(last)["epoch"]
        wait_for(lambda: last.is_file() and load_checkpoint(last)["epoch"] > epoch, started, said)
        os.kill(workers(started.pid)[1], signal.SIGKILL)
        assert started.wait(PATIENCE) != 0
    finally:
        started.kill()
    content = load_checkpoint(last)
    assert [row["epoch"] for row in content["history"]] == list(range(content["epoch"] + 1))
    assert content["epoch"] > epoch
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["r"]


@pytest.mark.slow
def test_a_wrong_schedule_is_told_once(folder: Path) -> None:
    (folder / "typo.yaml").write_text(
        "pruners:\n  p: {class: SparsityLevelParameterPruner, levels: {mid_part.1.wieght: 0.5}}\n"
        "policies:\n  - pruner: {instance_name: p}\n    epochs: [0]\n"
    )
    started = torchrun(folder, *CASES["SR"].small_run, "--compress=typo.yaml")
    assert started.wait(PATIENCE) != 0
    assert (folder / "said.txt").read_text().count("did you mean 'mid_part.1.weight'") == 1

"""A checkpoint is read once in a command, and handed on to whoever needs it."""

import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from apputils.checkpoints import file
from engine.commands.train import act
from options.applications import find_application
from options.Normal_options.train_options import TrainOptions
from tests.engine.conftest import TrainerOf

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """File name -> how often it was read."""
    found: Counter[str] = Counter()
    original = file._read

    def counting(path: Path, *rest: Any, **more: Any) -> Any:
        found[path.name] += 1
        return original(path, *rest, **more)

    monkeypatch.setattr(file, "_read", counting)
    return found


def test_a_resumed_run_reads_where_it_left_off_once(trainer_of: TrainerOf, reads: Counter[str]) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    reads.clear()
    act(find_application("SR"), TrainOptions().parse(["--resume=a", "--nEpochs=2"]))
    assert reads["last.pt"] == 1
    assert Path("logs/a/metrics.csv").read_text().count("\n") == 3


def test_an_evaluation_reads_its_checkpoint_once(
    trainer_of: TrainerOf, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_of("--nEpochs=1", "--run=a").run()
    reads.clear()
    arguments = ["test.py", "--run=a", "--testdata=images/val", "--no-export", "--no-report", "--sense=none"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "test.py"), run_name="__main__")
    assert Path("results/a/test_summary.json").is_file()
    assert reads == {"best.pt": 1, "last.pt": 1}  # the second for what became of the run as a whole

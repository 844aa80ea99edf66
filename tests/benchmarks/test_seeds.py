"""One training with several seeds: what is run, mean and spread, what is there already."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from benchmarks import seeds
from compress.errors import UserError

ACCURACY = {0: 97.0, 1: 98.0, 2: 96.5}
TINY = ["--optform=Classify", "--arch=simplenet_mnist", "--size=16", "--nEpochs=1", "--batchSize=256", "--threads=1"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options and whether validation alone was asked for, of each training that would be done."""
    found: list[Any] = []

    def one(application: Any, training: list[str], run_name: str, validation: bool) -> seeds.Quality:
        config = application.load("train_options")().parse(training)
        found.append((run_name, config.arch, validation))
        return {"top1": {"majority class": 10.0, "model": ACCURACY[config.seed]}}

    monkeypatch.setattr(seeds, "one", one)
    return found


def test_mean_and_spread_against_numpy(asked: list[Any]) -> None:
    text = seeds.run(["--seeds", "0", "1", "2", "--name=a", "--optform=Classify", "--arch=lenet5"])
    assert asked == [(f"a-s{seed}", "lenet5", False) for seed in ACCURACY]
    rows = [[cell.strip() for cell in line.rsplit(None, 1)] for line in text.splitlines()]
    assert ["mean", f"{np.mean(list(ACCURACY.values())):.4f}"] in rows
    assert ["standard deviation", f"{np.std(list(ACCURACY.values()), ddof=1):.4f}"] in rows
    assert ["majority class", "10.0000"] in rows
    assert "measured on the test data; runs a-s*" in text


def test_the_spread_of_a_single_seed_is_not_known(asked: list[Any]) -> None:
    text = seeds.run(["--seeds", "1", "--validation", "--optform=Classify"])
    assert asked[0][2] is True
    assert "nan" in text
    assert "measured on the validation data" in text


@pytest.mark.parametrize("option", ["--seed=1", "--run=a", "--resume=a"])
def test_what_it_sets_itself_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="is set here for each run; give --seeds and --name"):
        seeds.run([option])


def test_a_seed_gives_what_it_gives_alone_and_is_not_trained_twice(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs behind each other in one process do not disturb each other, and a table can be made again."""
    seeds.run(["--seeds", "0", "1", "--name=a", "--validation", *TINY])
    seeds.run(["--seeds", "1", "--name=b", "--validation", *TINY])
    second, alone = (load_checkpoint(Path("checkpoints") / run / "last.pt")["model"] for run in ("a-s1", "b-s1"))
    assert all(torch.equal(second[name], value) for name, value in alone.items())
    monkeypatch.setattr(seeds, "trained", None)
    again = seeds.run(["--seeds", "0", "1", "--name=a", *TINY])
    assert "measured on the test data" in again
    assert Path("results/a-s1/test_summary.json").is_file()
    with pytest.raises(UserError, match="there is a run a-s0 with another --lr"):
        seeds.run(["--seeds", "0", "--name=a", "--lr=0.5", *TINY])

"""A tiny restoration run on four tiny images, and its evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apputils.checkpoints.file import load_checkpoint
from engine.resume import resumed
from models.Restore.solver import RestoreTrainer, restore_testing_loader, restore_training_loaders
from models.Restore.tester import RestoreTester
from options.Restore_options.test_options import TestOptions
from options.Restore_options.train_options import TrainOptions
from tests.tiny_images import tiny_images

RestorerOf = Callable[..., RestoreTrainer]
TesterOf = Callable[..., RestoreTester]


@pytest.fixture
def restorer_of(here: Path, monkeypatch: pytest.MonkeyPatch) -> RestorerOf:
    """`restorer_of("--nEpochs=2", ...)` builds a trainer in an empty present folder."""
    tiny_images(here, 48, 56, smooth=8)
    for each in (RestoreTrainer, RestoreTester):
        monkeypatch.setattr(each, "example_inputs", lambda self: (torch.zeros(1, 3, 24, 24),))

    def make(*arguments: Any) -> RestoreTrainer:
        given = [str(each) for each in arguments]
        if not any(each.startswith("--resume") for each in given):
            given = ["--traindata=images", "--samples=8", "--patch-size=24", "--batchSize=4", *given]
        config = resumed(TrainOptions().parse(["--optform=Restore", *given]))
        return RestoreTrainer(config, *restore_training_loaders(config))

    return make


@pytest.fixture
def tester_of() -> TesterOf:
    """`tester_of("a", ...)` evaluates the best network of run a, without a report."""

    def make(run: str, *arguments: str) -> RestoreTester:
        more = ["--sense=none", "--no-report", *arguments]
        given = TestOptions().parse([f"--model=checkpoints/{run}/best.pt", *more])
        checkpoint = load_checkpoint(Path(f"checkpoints/{run}/best.pt"))
        return RestoreTester(given, restore_testing_loader(given, checkpoint), checkpoint)

    return make

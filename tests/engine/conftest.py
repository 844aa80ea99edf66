"""A tiny super-resolution run: noise images, small crops, few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.loaders import sr_training_loaders
from engine.resume import resumed
from models.C2SRCNN.solver import C2SRCNNTrainer
from options.Normal_options.train_options import TrainOptions
from tests.tiny_images import tiny_images

TrainerOf = Callable[..., C2SRCNNTrainer]

SCHEDULE = """\
version: 1
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: ['mid_part.?.weight']}
lr_schedulers:
  lr: {class: MultiStepLR, milestones: [1, 3], gamma: 0.5}
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
  - lr_scheduler: {instance_name: lr}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
"""


@pytest.fixture
def trainer_of(here: Path) -> TrainerOf:
    """`trainer_of("--nEpochs=2", ...)` builds a trainer on four tiny images, in an empty present folder."""
    tiny_images(here, test=0)
    (here / "schedule.yaml").write_text(SCHEDULE)

    def make(*arguments: Any) -> C2SRCNNTrainer:
        given = [str(each) for each in arguments]
        if not any(each.startswith("--resume") for each in given):
            given = ["--traindata=images/train", "--samples=12", "--patch_size=24", "--batchSize=4", *given]
        config = resumed(TrainOptions().parse(given))
        return C2SRCNNTrainer(config, *sr_training_loaders(config))

    return make

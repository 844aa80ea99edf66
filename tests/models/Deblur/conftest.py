"""A tiny deblurring run: noise images, a generator of a few channels, few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.Deblur_data.loaders import deblur_training_loaders
from engine.resume import resumed
from models.Deblur.solver import DeblurTrainer
from options.Deblur_options.train_options import TrainOptions
from tests.tiny_images import tiny_images

DeblurrerOf = Callable[..., DeblurTrainer]

SCHEDULE = """\
version: 1
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: ['blocks.*.weight']}
lr_schedulers:
  halve: {class: MultiStepLR, milestones: [1, 3], gamma: 0.5}
  tenth: {class: MultiStepLR, milestones: [1], gamma: 0.1}
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
  - lr_scheduler: {instance_name: halve}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
  - lr_scheduler: {instance_name: tenth}
    optimizer: netD
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
"""
SMALL = ["--samples=6", "--patch-size=32", "--batchSize=2", "--ngf=2", "--blocks=1", "--ndf=2", "--sharp-only",
         "--traindata=images", "--blur-length=12"]  # fmt: skip


@pytest.fixture
def deblurrer_of(here: Path) -> DeblurrerOf:
    """`deblurrer_of("--nEpochs=2", ...)` builds a trainer on four tiny sharp images, in an empty present folder."""
    tiny_images(here, 44, 52)
    (here / "schedule.yaml").write_text(SCHEDULE)

    def make(*arguments: Any) -> DeblurTrainer:
        given = [str(each) for each in arguments]
        if not any(each.startswith("--resume") for each in given):
            given = [*SMALL, *given]
        config = resumed(TrainOptions().parse(["--optform=Deblur", *given]))
        return DeblurTrainer(config, *deblur_training_loaders(config))

    return make

"""A tiny classification run: three classes of noise around a grey level, few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.Classify_data.loaders import classify_training_loaders
from engine.resume import resumed
from models.Classify.solver import ClassifyTrainer
from options.Classify_options.train_options import TrainOptions

ClassifierOf = Callable[..., ClassifyTrainer]

SCHEDULE = """\
version: 1
pruners:
  agp: {class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.5, weights: ['fc1.weight']}
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
"""
FILTERS = """\
pruners:
  p: {class: L1RankedStructureParameterPruner, reg_regims: {conv2.weight: [0.5, 3D]}}
extensions:
  t: {class: FilterRemover}
policies:
  - pruner: {instance_name: p}
    epochs: [1]
  - extension: {instance_name: t}
    epochs: [1]
fine_tuning_epochs: 2
"""
LEVELS = {"dark": 40, "grey": 120, "light": 210}


@pytest.fixture
def classifier_of(here: Path) -> ClassifierOf:
    """`classifier_of("--nEpochs=2", ...)` builds a trainer on thirty images in `images/`."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 4), ("test", 4)):
        for name, level in LEVELS.items():
            folder = here / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = (level + draw.integers(-30, 30, (20, 20))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (here / "schedule.yaml").write_text(SCHEDULE)
    (here / "filters.yaml").write_text(FILTERS)

    def make(*arguments: Any) -> ClassifyTrainer:
        given = [str(each) for each in arguments]
        if not any(each.startswith("--resume") for each in given):
            given = ["--traindata=images", "--size=20", "--batchSize=8", *given]
        config = resumed(TrainOptions().parse(given))
        return ClassifyTrainer(config, *classify_training_loaders(config))

    return make

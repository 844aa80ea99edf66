"""The three loaders of super-resolution, under the names that the solvers call.

The choice between a user's folder, BSDS300 and the embedded photographs. Called by `train.py` and `test.py` through
the table of applications.
"""

import logging
from pathlib import Path
from typing import Protocol

from data.dataset import PATCH_SIZE, SAMPLES_PER_EPOCH, DatasetFromFolder, EvaluationSet
from data.decoding import MEMORY_BUDGET
from data.embedded import SPLIT, Part, embedded_images
from data.folders import folder_images, has_test_part
from data.images import ImageFile
from data.measured import Measured
from data.restoration import given_or_default

DEFAULT_DIR = Path("dataset/BSDS300/images")

_logger = logging.getLogger(__name__)


class TestingOptions(Protocol):
    """What `get_testing_set` reads of the options.

    Attributes:
        testdata: folder of test images, or None for the default.
        upscale_factor: 2, 3 or 4.
    """

    testdata: str | Path | None
    upscale_factor: int


def get_training_set(
    upscale_factor: int,
    train_dir: str | Path | None = None,
    *,
    patch_size: int = PATCH_SIZE,
    samples: int = SAMPLES_PER_EPOCH,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> DatasetFromFolder:
    """Random crops of the training part; the arguments are those of `DatasetFromFolder`.

    Args:
        train_dir: a folder (see `folder_images`); None takes BSDS300 if it is there, else the
            embedded photographs.

    Raises:
        UserError: the folder or its images cannot be used.
    """
    if place_of(train_dir) is None:
        _logger.info("%s", embedded_notice())
    all_images = _images(place_of(train_dir), "train")
    return DatasetFromFolder(all_images, upscale_factor, patch_size, samples, seed, memory_budget)


def get_validation_set(
    upscale_factor: int, train_dir: str | Path | None = None, *, memory_budget: int = MEMORY_BUDGET
) -> EvaluationSet:
    """Whole images held out of training, from the same place as the training set's.

    Raises:
        UserError: the folder or its images cannot be used.
    """
    return evaluation_set(place_of(train_dir), "validation", upscale_factor, memory_budget)


def get_testing_set(opt: TestingOptions) -> EvaluationSet:
    """Whole images of the test part: of `opt.testdata`, of BSDS300, or embedded.

    Those of a run are found by `data.loaders.sr_testing_loader`, which knows what was trained on.

    Raises:
        UserError: the folder or its images cannot be used.
    """
    return evaluation_set(place_of(opt.testdata), "test", opt.upscale_factor)


def place_of(train_dir: str | Path | None) -> Path | None:
    """The folder that a run trains on: the one given, or BSDS300 if it is there; None is the embedded photographs."""
    return given_or_default(train_dir, DEFAULT_DIR)


def embedded_notice() -> str:
    """The line that says which images a run without `--traindata` uses."""
    count = {part: sum(its == part for _, its in SPLIT.values()) for part in ("train", "validation", "test")}
    return (
        f"no --traindata given: using the {len(SPLIT)} photographs inside scikit-image and scikit-learn "
        f"({count['train']} train, {count['validation']} validation, {count['test']} test); "
        "--traindata DIR takes your own folder of images"
    )


def evaluation_set(
    place: Path | None, part: Part, upscale_factor: int, memory_budget: int = MEMORY_BUDGET
) -> EvaluationSet:
    """Whole images of one part of a folder; None is the embedded photographs."""
    found = EvaluationSet(_images(place, part), upscale_factor, memory_budget)
    found.measured = Measured.of_part(place, part, has_test_part, len(found))
    return found


def _images(place: Path | None, part: Part) -> list[ImageFile]:
    return embedded_images(part) if place is None else folder_images(place, part)

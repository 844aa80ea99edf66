"""Loaders of restoration, for the table of applications.

A user's sharp images, or the embedded photographs, and what is done to them.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from data.loaders import CropOptions, HasTestData, held_out_loader, pair_loaders
from data.pair_sets import PairImages
from data.pairs import Degradation, DegradedImages
from data.restoration import given_or_default

DEFAULT_DIR = Path("dataset/Restore/train")

_logger = logging.getLogger("run")


class _LoaderOptions(CropOptions, Protocol):
    """What the loaders read of the training options."""

    @property
    def degradation(self) -> str: ...


def training_loaders(config: _LoaderOptions, degradation: Degradation) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader from the training options.

    Raises:
        UserError: the data cannot be used.
    """
    place = given_or_default(config.traindata, DEFAULT_DIR)
    if place is None:
        _logger.info(
            "no --traindata given: degrading the photographs inside scikit-image and scikit-learn (%s); "
            "--traindata DIR takes your own sharp images", config.degradation,
        )  # fmt: skip
    crops, held_out = (DegradedImages.of_part(place, part, degradation) for part in ("train", "validation"))
    return pair_loaders(crops, held_out, place, config)


def testing_loader(opt: HasTestData, checkpoint: Mapping[str, Any], degradation: Degradation) -> DataLoader[Any]:
    """Testing loader; without `--testdata` what the run held out.

    Raises:
        UserError: the data cannot be used.
    """
    source = partial(DegradedImages.of_part, degradation=degradation)
    return held_out_loader(opt, checkpoint, lambda *part: PairImages(source(*part)), DEFAULT_DIR)

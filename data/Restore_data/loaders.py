"""Loaders of restoration, for the table of applications.

A user's sharp images, or the embedded photographs, and what is done to them.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from data.loaders import CropOptions, HasTestData, held_out_loader, pair_loaders, trained_with
from data.pair_sets import PairImages
from data.pairs import DegradedImages
from data.restoration import given_or_default
from data.Restore_data.degradations import Change, degradation_of

DEFAULT_DIR = Path("dataset/Restore/train")

_logger = logging.getLogger("run")


class _LoaderOptions(CropOptions, Protocol):
    """What the loaders read of the training options."""

    @property
    def degradation(self) -> str: ...


class _TestOptions(HasTestData, Protocol):
    """What the testing loader reads of the test options."""

    @property
    def degradation(self) -> str | None: ...


def training_loaders(config: _LoaderOptions, own: Callable[[str], Change]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader from the training options.

    Args:
        config: the options.
        own: gives a function of one's own by its name.

    Raises:
        UserError: the data or the degradation cannot be used.
    """
    place, degradation = given_or_default(config.traindata, DEFAULT_DIR), degradation_of(config.degradation, own)
    if place is None:
        _logger.info(
            "no --traindata given: degrading the photographs inside scikit-image and scikit-learn (%s); "
            "--traindata DIR takes your own sharp images", config.degradation,
        )  # fmt: skip
    crops, held_out = (DegradedImages.of_part(place, part, degradation) for part in ("train", "validation"))
    return pair_loaders(crops, held_out, place, config)


def testing_loader(opt: _TestOptions, checkpoint: Mapping[str, Any], own: Callable[[str], Change]) -> DataLoader[Any]:
    """Testing loader; without `--testdata` what the run held out, degraded as it was trained or as the options say.

    Raises:
        UserError: the data or the degradation cannot be used.
    """
    degradation = degradation_of(opt.degradation or trained_with(checkpoint, "degradation", str), own)
    source = partial(DegradedImages.of_part, degradation=degradation)
    return held_out_loader(opt, checkpoint, lambda *part: PairImages(source(*part)), DEFAULT_DIR)

"""Loaders of restoration, for the table of applications.

A user's sharp images, or the embedded photographs, and what is done to them.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from data.data_fingerprint import trained_place
from data.embedded import Part, embedded_images
from data.folders import folder_images, has_test_part, measured_part
from data.loaders import CropOptions, HasTestData, evaluation_loader, restoration_loaders, trained_with
from data.measured import Measured
from data.pair_sets import PairCrops, PairImages
from data.pairs import Degradation, DegradedImages
from data.restoration import given_or_default
from data.Restore_data.degradations import Change, degradation_of

DEFAULT_DIR = Path("dataset/Restore/train")
MIDDLE = 256  # pixels: of embedded photographs the middle is measured

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
    crops = PairCrops(_source(place, "train", degradation), config.patch_size, config.samples, config.seed)
    return restoration_loaders(crops, PairImages(_source(place, "validation", degradation)), place, config)


def testing_loader(opt: _TestOptions, checkpoint: Mapping[str, Any], own: Callable[[str], Change]) -> DataLoader[Any]:
    """Testing loader; without `--testdata` what the run held out, degraded as it was trained or as the options say.

    Raises:
        UserError: the data or the degradation cannot be used.
    """
    trained = partial(trained_with, checkpoint)
    own_place = trained_place(checkpoint, lambda: given_or_default(trained("traindata", str | None), DEFAULT_DIR))
    place, part = measured_part(opt.testdata, own_place, has_test_part)
    text = opt.degradation or trained("degradation", str)
    images = PairImages(_source(place, part, degradation_of(text, own)))
    images.measured = Measured.of_part(place, part, has_test_part, len(images))
    return evaluation_loader(images)


def _source(place: Path | None, part: Part, degradation: Degradation) -> DegradedImages:
    if place is None:
        return DegradedImages(embedded_images(part), degradation, MIDDLE)
    return DegradedImages(folder_images(place, part), degradation)

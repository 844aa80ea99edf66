"""Loaders of deblurring, for the table of applications.

The choice between a user's pairs and the embedded photographs.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from data.Deblur_data.folders import has_test_part, pairs_of
from data.Deblur_data.motion import LONGEST_BLUR, SHORTEST_BLUR, CameraMotion
from data.embedded import Part
from data.images import ImageFile
from data.loaders import CropOptions, HasTestData, held_out_loader, pair_loaders, trained_with
from data.pair_sets import PairImages
from data.pairs import DegradedImages, FilePairs, PairSource
from data.restoration import given_or_default

DEFAULT_DIR = Path("dataset/Deblur/train")
UNLIKE = 14.0  # dB; blurred images have more to the sharp ones, other scenes less

_logger = logging.getLogger("run")


class _LoaderOptions(CropOptions, Protocol):
    """What the loaders read of the training options."""

    @property
    def sharp_only(self) -> bool: ...

    @property
    def blur_length(self) -> float: ...


class _TestOptions(HasTestData, Protocol):
    """What the testing loader reads of the test options."""

    @property
    def sharp_only(self) -> bool: ...


def deblur_training_loaders(config: _LoaderOptions) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader from the training options.

    Raises:
        UserError: the data cannot be used.
    """
    place, settings = given_or_default(config.traindata, DEFAULT_DIR), (config.sharp_only, config.blur_length)
    if place is None:
        _logger.info(
            "no --traindata given: blurring the photographs inside scikit-image and scikit-learn; "
            "--traindata DIR takes your own pairs"
        )
    crops, held_out = (source_of(place, part, *settings) for part in ("train", "validation"))
    if place is not None:
        _logger.info("%s: %d pairs to train on, %d for validation", place, len(crops), len(held_out))
    warn_of_unlike_halves(held_out)
    return pair_loaders(crops, held_out, place, config)


def deblur_testing_loader(opt: _TestOptions, checkpoint: Mapping[str, Any]) -> DataLoader[Any]:
    """Testing loader; without `--testdata` what the run held out of the data that it was trained on.

    Raises:
        UserError: the data cannot be used.
    """
    trained = partial(trained_with, checkpoint)
    sharp_only = opt.sharp_only or (opt.testdata is None and trained("sharp_only", bool))
    length = min(max(trained("blur_length", int | float), SHORTEST_BLUR), LONGEST_BLUR)
    source = partial(source_of, sharp_only=sharp_only, length=length)
    return held_out_loader(opt, checkpoint, lambda *part: PairImages(source(*part)), DEFAULT_DIR, has_test_part)


def warn_of_unlike_halves(source: PairSource) -> None:
    """Sharp images that are taken for `A|B` train a network on nonsense: their halves show different things."""
    if not isinstance(source, FilePairs) or any(pair.blurred is not None for pair in source.pairs):
        return
    from skimage.metrics import peak_signal_noise_ratio  # here, as it imports scipy.stats, a second more

    pairs = [source.whole(index) for index in range(min(len(source), 4))]
    decibels = [peak_signal_noise_ratio(pair.sharp, pair.degraded, data_range=255) for pair in pairs]
    if max(decibels, default=math.inf) < UNLIKE:
        _logger.warning(
            "each image is taken for `A|B`, blurred and sharp side by side, but the halves have %.1f dB to each "
            "other, too little for the same scene: are they sharp images? then give --sharp-only",
            max(decibels),
        )


def source_of(place: Path | None, part: Part, sharp_only: bool, length: float) -> PairSource:
    """The pairs of one part.

    Args:
        place: a folder; None is the embedded photographs.
        part: train, validation or test.
        sharp_only: the folder holds sharp images, which are blurred here.
        length: of the camera's way, pixels.
    """
    if place is None or sharp_only:
        return DegradedImages.of_part(place, part, CameraMotion(length), _sharp_images)
    return FilePairs(pairs_of(place, part), lazily=part == "train")


def _sharp_images(place: Path, part: Part) -> list[ImageFile]:
    return [each.sharp for each in pairs_of(place, part, sharp_only=True)]

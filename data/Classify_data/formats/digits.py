"""The real handwritten digits inside scikit-learn: the data of a run that names none.

The images and their split. 1,797 images of 8 x 8 pixels, ten classes: the test part, by 13 writers, of
Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. Nothing is downloaded.
"""

from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from data.Classify_data.layout import Layout
from data.Classify_data.source import ArraySource
from data.embedded import Part
from data.images import Pixels

CLASSES = tuple("0123456789")
WHERE = "the digits inside scikit-learn"

# The one place where the split is written: the place of an image among those of its class, in the order of the
# wheel, modulo ten. The wheel does not say who wrote which image, so one writer's digits may be in several parts.
SPLIT: dict[Part, tuple[int, ...]] = {"train": (0, 1, 3, 4, 6, 8, 9), "validation": (2,), "test": (5, 7)}


def digits() -> Layout:
    """The digits: 1,259 images for training, 181 for validation, 357 for testing."""
    return Layout("embedded digits", WHERE, {part: partial(_part, part) for part in SPLIT})


def _part(part: Part) -> ArraySource:
    images, labels = _all()
    place = np.zeros(len(labels), dtype=np.int64)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        place[members] = np.arange(len(members))
    chosen = np.flatnonzero(np.isin(place % 10, SPLIT[part]))
    names = [f"{i:04d}" for i in chosen]
    return ArraySource(images[chosen], labels[chosen].tolist(), CLASSES, WHERE, names)


@cache
def _all() -> tuple[Pixels, NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # a second to import, which other data need not wait for

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return pixels, labels.astype(np.int64)

"""Data sets of images that keep their size: random crops of pairs for training, whole images for measuring.

Tensors made of a `PairSource`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data.images import Pixels
from data.pairs import PairSource
from data.restoration import Crops, RestorationItem, WholeImages, to_tensor

SIDE_MULTIPLE = 4  # pixels: networks halve an image twice


class PairCrops(Crops):
    """Training pairs (degraded, sharp), each (3, p, p); where images are degraded here, how is drawn too.

    Args:
        source: of the pairs.
        patch_size: p, pixels, a multiple of 4.
        samples: length of an epoch.
        seed: the run's seed, >= 0.
    """

    counted = "pairs"

    def __init__(self, source: PairSource, patch_size: int, samples: int, seed: int = 0) -> None:
        super().__init__(samples, seed)
        self.source, self.patch_size = source, patch_size

    def pair(self, sample: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """See `Crops`."""
        return self.source.crop(sample % len(self.source), self.patch_size, draw)

    def files(self) -> list[Path]:
        """See `Crops`."""
        return self.source.files()

    @property
    def image_count(self) -> int:
        """See `Crops`."""
        return len(self.source)


class PairImages(WholeImages):
    """Whole pairs, cut right and below to a multiple of 4 pixels; the baseline is the degraded image itself."""

    def __init__(self, source: PairSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def item(self, index: int) -> RestorationItem:
        """See `WholeImages`."""
        name, *pair = self.source.whole(index)
        height, width = (size // SIDE_MULTIPLE * SIDE_MULTIPLE for size in pair[0].shape[1:])
        degraded, sharp = (to_tensor(each[:, :height, :width]) for each in pair)
        return RestorationItem(name, degraded, degraded, sharp)

    def files(self) -> list[Path]:
        """See `WholeImages`."""
        return self.source.files()

    def facts(self) -> dict[str, Any]:
        """See `WholeImages`."""
        return self.source.facts()

"""Super-resolution data sets: random aligned crops for training, whole images for measuring.

Tensors made of `PairStore`'s pairs. Called by `data.py`, or by a user with a list of images of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UserError
from data.decoding import MEMORY_BUDGET
from data.images import ImageFile, Pixels, up_sample
from data.restoration import Crops, RestorationItem, WholeImages, to_tensor
from data.store import PairStore

PATCH_SIZE = 64  # pixels of the high resolution: small batches of small crops stay in a CPU's cache
SAMPLES_PER_EPOCH = 1600
SMALLEST_MEASURED = 32  # pixels: below, the border cut and SSIM's window leave next to nothing


class DatasetFromFolder(Crops):
    """Training pairs (low, high), RGB float32 in [0, 1]: (3, p / scale, p / scale) and (3, p, p).

    Each image gives the same number of samples. Where a sample is cut, and how it is flipped and
    turned, follows from (seed, epoch, sample) alone: use it with `EpochSampler`. A plain index stands
    for epoch 0. The low resolution is cut out of the whole image's, so that no crop has a border
    that the network would not see at work.

    Args:
        images: candidates; unusable ones are logged and left out. Of a folder that does not fit the memory budget
            files are decoded when their turn comes (`PairStore`).
        upscale_factor: 2, 3 or 4.
        patch_size: p, pixels of the high resolution; rounded down to a multiple of the factor.
        samples: length of an epoch.
        seed: the run's seed, >= 0.
        memory_budget: bytes of decoded images to keep.

    Raises:
        UserError: no usable image, a patch smaller than the factor, or a factor that is not supported.
    """

    def __init__(
        self,
        all_images: Sequence[ImageFile],
        upscale_factor: int,
        patch_size: int = PATCH_SIZE,
        samples: int = SAMPLES_PER_EPOCH,
        seed: int = 0,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        if patch_size < upscale_factor:
            raise UserError(f"the patch size is {patch_size} pixels; it must be {upscale_factor} or more")
        self.store = PairStore(all_images, upscale_factor, patch_size, memory_budget, lazily=True)
        super().__init__(samples, seed)
        self.scale, self.low_size = upscale_factor, patch_size // upscale_factor

    def pair(self, sample: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """See `Crops`."""
        index = sample % len(self.store)
        height, width = self.store.size(index)
        corner = int(draw.integers(height - self.low_size + 1)), int(draw.integers(width - self.low_size + 1))
        return self.store.crop(index, corner, self.low_size)

    def files(self) -> list[Path]:
        """See `Crops`."""
        return [image.path for image in self.store.all_images]


class EvaluationSet(WholeImages):
    """Whole images with their baseline, in the order given. Load with batch size 1: sizes differ.

    Args:
        images: candidates; unusable ones are logged and left out.
        upscale_factor: 2, 3 or 4.
        memory_budget: bytes of decoded images to keep.

    Raises:
        UserError: no usable image, or a factor that is not supported.
    """

    def __init__(
        self, all_images: Sequence[ImageFile], upscale_factor: int, memory_budget: int = MEMORY_BUDGET
    ) -> None:
        self.store = PairStore(all_images, upscale_factor, SMALLEST_MEASURED, memory_budget)
        self.scale = upscale_factor

    def __len__(self) -> int:
        return len(self.store)

    def item(self, index: int) -> RestorationItem:
        """See `WholeImages`."""
        low, high = self.store[index]
        bicubic = up_sample(low.transpose(1, 2, 0), self.scale).transpose(2, 0, 1)
        return RestorationItem(self.store.all_images[index].name, *map(to_tensor, (low, bicubic, high)))

    def files(self) -> list[Path]:
        """See `WholeImages`."""
        return [image.path for image in self.store.all_images]

    def facts(self) -> dict[str, Any]:
        """See `WholeImages`."""
        return {"scale": self.scale}

"""Deblurring data sets: random crops of pairs for training, whole pictures for measuring.

Tensors made of a `PairSource`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.data_fingerprint import Origin
from data.Deblur_data.source import PairSource
from data.images import Pixels
from data.measured import Measured
from data.sampling import SampleKey, rng, sample_key

SIDE_MULTIPLE = 4  # pixels: the generator halves a picture twice


class DeblurItem(NamedTuple):
    """A picture that is measured, RGB float32 in [0, 1], (3, H, W); H and W are multiples of 4.

    Attributes:
        name: the picture's name.
        blurred: the network's input, which is the baseline too.
        sharp: the target.
    """

    name: str
    blurred: Tensor
    sharp: Tensor


class DeblurCrops(Dataset[tuple[Tensor, Tensor]]):
    """Training pairs (blurred, sharp), each (3, p, p), RGB float32 in [0, 1].

    Where a sample is cut, how it is flipped and turned and, where blur is made, its kernel follow from
    (seed, epoch, sample) alone: use it with `EpochSampler`. A plain index stands for epoch 0.

    Args:
        source: of the pairs.
        patch_size: p, pixels, a multiple of 4.
        samples: length of an epoch.
        seed: the run's seed, >= 0.

    Attributes:
        origin: which files a run uses, from the function that makes its loaders; None of a data set of one's own.
    """

    origin: Origin | None = None

    def __init__(self, source: PairSource, patch_size: int, samples: int, seed: int = 0) -> None:
        self.source, self.patch_size, self.samples, self.seed = source, patch_size, samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, Tensor]:
        key = sample_key(key)
        if not 0 <= key.sample < self.samples:
            raise IndexError(f"sample {key.sample} is not in [0, {self.samples})")
        draw = rng(self.seed, key)
        blurred, sharp = self.source.crop(key.sample % len(self.source), self.patch_size, draw)
        flip, turns = bool(draw.integers(2)), int(draw.integers(4))
        return to_tensor(_turned(blurred, flip, turns)), to_tensor(_turned(sharp, flip, turns))


class DeblurPictures(Dataset[DeblurItem]):
    """Whole pairs in order, cut right and below to a multiple of 4. Load with batch size 1: sizes differ.

    Attributes:
        measured: where the images are from, from the function that chose them; None of a data set of one's own.
    """

    measured: Measured | None = None

    def __init__(self, source: PairSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> DeblurItem:
        name, blurred, sharp = self.source.whole(range(len(self))[index])
        height, width = (size // SIDE_MULTIPLE * SIDE_MULTIPLE for size in sharp.shape[1:])
        return DeblurItem(name, *(to_tensor(each[:, :height, :width]) for each in (blurred, sharp)))


def to_tensor(pixels: Pixels) -> Tensor:
    """(3, H, W), 0..255 -> float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255


def _turned(pixels: Pixels, flip: bool, turns: int) -> Pixels:
    return np.rot90(pixels[:, :, ::-1] if flip else pixels, turns, (1, 2))

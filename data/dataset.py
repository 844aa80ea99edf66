"""Super-resolution data sets: random aligned crops for training, whole pictures for measuring.

Tensors made of `PairStore`'s pairs. Called by `data.py`, or by a user with a list of pictures of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress.errors import UserError
from data.data_fingerprint import Origin
from data.images import Picture, Pixels, up_sample
from data.measured import Measured
from data.sampling import SampleKey, rng, sample_key
from data.store import MEMORY_BUDGET, PairStore

PATCH_SIZE = 64  # pixels of the high resolution: small batches of small crops stay in a CPU's cache
SAMPLES_PER_EPOCH = 1600
SMALLEST_MEASURED = 32  # pixels: below, the border cut and SSIM's window leave next to nothing


class EvaluationItem(NamedTuple):
    """A whole picture, RGB float32 in [0, 1].

    Attributes:
        name: the picture's name.
        low: (3, h, w), the model's input.
        bicubic: (3, h * scale, w * scale), Pillow's bicubic of `low`: the baseline.
        high: (3, h * scale, w * scale), the target.
    """

    name: str
    low: Tensor
    bicubic: Tensor
    high: Tensor


class DatasetFromFolder(Dataset[tuple[Tensor, Tensor]]):
    """Training pairs (low, high), RGB float32 in [0, 1]: (3, p / scale, p / scale) and (3, p, p).

    Each picture gives the same number of samples. Where a sample is cut, and how it is flipped and
    turned, follows from (seed, epoch, sample) alone: use it with `EpochSampler`. A plain index stands
    for epoch 0. The low resolution is cut out of the whole picture's, so that no crop has a border
    that the network would not see at work.

    Args:
        pictures: candidates; unusable ones are logged and left out.
        upscale_factor: 2, 3 or 4.
        patch_size: p, pixels of the high resolution; rounded down to a multiple of the factor.
        samples: length of an epoch.
        seed: the run's seed, >= 0.
        memory_budget: bytes of decoded pictures to keep.

    Attributes:
        origin: which files a run uses, from the function that makes its loaders; None of a data set of one's own.

    Raises:
        UserError: no usable picture, a patch smaller than the factor, or a factor that is not supported.
    """

    origin: Origin | None = None

    def __init__(
        self,
        pictures: Sequence[Picture],
        upscale_factor: int,
        patch_size: int = PATCH_SIZE,
        samples: int = SAMPLES_PER_EPOCH,
        seed: int = 0,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        if patch_size < upscale_factor:
            raise UserError(f"the patch size is {patch_size} pixels; it must be {upscale_factor} or more")
        self.store = PairStore(pictures, upscale_factor, patch_size, memory_budget)
        self.scale, self.samples, self.seed = upscale_factor, samples, seed
        self.low_size = patch_size // upscale_factor

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, Tensor]:
        key = sample_key(key)
        if not 0 <= key.sample < self.samples:
            raise IndexError(f"sample {key.sample} is not in [0, {self.samples})")
        draw = rng(self.seed, key)
        pair = self.store[key.sample % len(self.store)]
        _, height, width = pair.low.shape
        corner = draw.integers(height - self.low_size + 1), draw.integers(width - self.low_size + 1)
        flip, turns = bool(draw.integers(2)), int(draw.integers(4))
        low = _crop(pair.low, corner, self.low_size, 1)
        high = _crop(pair.high, corner, self.low_size, self.scale)
        return _to_tensor(_turned(low, flip, turns)), _to_tensor(_turned(high, flip, turns))


class EvaluationSet(Dataset[EvaluationItem]):
    """Whole pictures with their baseline, in the order given. Load with batch size 1: sizes differ.

    Args:
        pictures: candidates; unusable ones are logged and left out.
        upscale_factor: 2, 3 or 4.
        memory_budget: bytes of decoded pictures to keep.

    Attributes:
        measured: where the images are from, from the function that chose them; None of a data set of one's own.

    Raises:
        UserError: no usable picture, or a factor that is not supported.
    """

    measured: Measured | None = None

    def __init__(self, pictures: Sequence[Picture], upscale_factor: int, memory_budget: int = MEMORY_BUDGET) -> None:
        self.store = PairStore(pictures, upscale_factor, SMALLEST_MEASURED, memory_budget)
        self.scale = upscale_factor

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> EvaluationItem:
        low, high = self.store[range(len(self))[index]]
        bicubic = up_sample(low.transpose(1, 2, 0), self.scale).transpose(2, 0, 1)
        name = self.store.pictures[index].name
        return EvaluationItem(name, _to_tensor(low), _to_tensor(bicubic), _to_tensor(high))


def _crop(planes: Pixels, corner: tuple[int, int], size: int, scale: int) -> Pixels:
    """The square of `size` low resolution pixels at `corner` (row, column), out of (3, H, W)."""
    (top, left), side = (scale * place for place in corner), size * scale
    return planes[:, top : top + side, left : left + side]


def _turned(planes: Pixels, flip: bool, turns: int) -> Pixels:
    """Mirrored if `flip`, then turned by `turns` quarters; a view, nothing is copied."""
    return np.rot90(planes[:, :, ::-1] if flip else planes, turns, axes=(1, 2))


def _to_tensor(planes: Pixels) -> Tensor:
    """(3, H, W) 8 bits -> the same in float32, [0, 1]; the only copy that is made of a crop."""
    return torch.from_numpy(np.divide(planes, np.float32(255), dtype=np.float32, order="C"))

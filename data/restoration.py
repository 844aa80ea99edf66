"""What data sets of image restoration share: the items that are measured, random crops of pairs, whole images.

An application derives from `Crops` and `WholeImages` and says where its pairs come from.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.data_fingerprint import Origin
from data.images import Pixels
from data.measured import Measured
from data.sampling import SampleKey, rng, sample_key


class RestorationItem(NamedTuple):
    """A whole image that is measured, RGB float32 in [0, 1].

    Attributes:
        name: the image's name.
        degraded: (3, h, w), the network's input.
        baseline: (3, H, W), what the trivial method makes of it.
        target: (3, H, W).
    """

    name: str
    degraded: Tensor
    baseline: Tensor
    target: Tensor

    @property
    def scale(self) -> int:
        """How many times larger the target is than the input."""
        return self.target.shape[-1] // self.degraded.shape[-1]

    def middle(self, height: int, width: int) -> "RestorationItem":
        """The middle of it, where it is larger: `height` x `width` of the network's input, and what belongs to it."""
        top, left = (
            max(own - size, 0) // 2 for own, size in zip(self.degraded.shape[-2:], (height, width), strict=True)
        )
        low = self.degraded[:, top : top + height, left : left + width]
        rows, columns = (
            slice(self.scale * start, self.scale * (start + size))
            for start, size in zip((top, left), low.shape[1:], strict=True)
        )
        baseline, target = self.baseline[:, rows, columns], self.target[:, rows, columns]
        return self._replace(degraded=low, baseline=baseline, target=target)


class Crops(Dataset[tuple[Tensor, Tensor]], ABC):
    """Training pairs (degraded, target), RGB float32 in [0, 1].

    Everything that is random about a sample follows from (seed, epoch, sample) alone: use it with `EpochSampler`. A
    plain index stands for epoch 0.

    Args:
        samples: length of an epoch.
        seed: the run's seed, >= 0.

    Attributes:
        origin: which files a run uses, from the function that makes its loaders; None of a data set of one's own.
        counted: what `image_count` counts, in the plural.
    """

    origin: Origin | None = None
    counted = "images"

    def __init__(self, samples: int, seed: int = 0) -> None:
        self.samples, self.seed = samples, seed

    @abstractmethod
    def pair(self, sample: int, draw: np.random.Generator) -> tuple[Pixels, Pixels]:
        """The crops (degraded, target) of a sample, (3, side, side) each, before they are flipped and turned.

        Args:
            sample: in [0, samples); counted on from epoch to epoch where an epoch has fewer samples than there are
                images, so that `sample % image_count` takes each in its turn.
            draw: makes every random choice.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that pairs are made of."""

    @property
    def image_count(self) -> int:
        """How many images samples are cut out of; of an image in two files say so here. The files by default."""
        return len(self.files())

    @cached_property
    def epochs_to_see_all(self) -> int:
        """Until each image has been used: more than 1 where an epoch has fewer samples than there are images."""
        return -(-self.image_count // self.samples)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, Tensor]:
        key = sample_key(key)
        if not 0 <= key.sample < self.samples:
            raise IndexError(f"sample {key.sample} is not in [0, {self.samples})")
        draw = rng(self.seed, key)
        before = key.epoch * self.samples if self.epochs_to_see_all > 1 else 0
        degraded, target = self.pair(before + key.sample, draw)
        flip, turns = bool(draw.integers(2)), int(draw.integers(4))
        return to_tensor(_turned(degraded, flip, turns)), to_tensor(_turned(target, flip, turns))


class WholeImages(Dataset[RestorationItem], ABC):
    """Whole images with their baseline, in order. Load with `data.loaders.evaluation_loader`: sizes differ.

    Attributes:
        measured: where the images are from, from the function that chose them; None of a data set of one's own.
    """

    measured: Measured | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def item(self, index: int) -> RestorationItem:
        """An image, the same each time."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that images are made of."""

    def facts(self) -> dict[str, Any]:
        """What was done to the images, as plain data: quality is compared only where it is equal. {} by default."""
        return {}

    def __getitem__(self, index: int) -> RestorationItem:
        return self.item(range(len(self))[index])


def random_crop(planes: Pixels, side: int, draw: np.random.Generator) -> Pixels:
    """A random square of (C, H, W), (C, side, side); where the image is smaller, its edges are mirrored."""
    lacking = [max(side - size, 0) for size in planes.shape[1:]]
    if any(lacking):
        planes = np.pad(planes, ((0, 0), *((each // 2, each - each // 2) for each in lacking)), mode="symmetric")
    top, left = (int(draw.integers(size - side + 1)) for size in planes.shape[1:])
    return planes[:, top : top + side, left : left + side]


def given_or_default(given: str | Path | None, default: Path | None) -> Path | None:
    """The folder that was named, or the default one if it is there; None is the embedded photographs."""
    if given is not None:
        return Path(given)
    return default if default is not None and default.is_dir() else None


def to_tensor(planes: Pixels) -> Tensor:
    """(3, H, W), 0..255 -> float32 in [0, 1]; the only copy that is made of a crop."""
    return torch.from_numpy(np.divide(planes, np.float32(255), dtype=np.float32, order="C"))


def _turned(planes: Pixels, flip: bool, turns: int) -> Pixels:
    """Mirrored if `flip`, then turned by `turns` quarters; a view, nothing is copied."""
    return np.rot90(planes[:, :, ::-1] if flip else planes, turns, axes=(1, 2))

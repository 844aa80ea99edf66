"""Training images, moved: one affine map for each image of a minibatch.

`Augmentation`. Every random number of a sample follows from (seed, epoch, sample), see data/sampling.py.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.sampling import SampleKey, rng


@dataclass(frozen=True)
class Augmentation:
    """How far images are moved; what lies outside of an image is black.

    Attributes:
        shift: largest shift, a fraction of the side, >= 0.
        rotate: largest turn, degrees, >= 0.
        zoom: largest change of size, a fraction, [0, 1).
        flip: mirror every second image, left to right.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return self == Augmentation()

    def apply(self, images: Tensor, seed: int, keys: list[SampleKey]) -> Tensor:
        """Moves each image of (n, channels, size, size), float."""
        if self.idle:
            return images
        maps = torch.from_numpy(np.stack([self.matrix(seed, key) for key in keys]))
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)

    def matrix(self, seed: int, key: SampleKey) -> np.ndarray:
        """Where each pixel of the moved image is read, in torch's [-1, 1] coordinates: float32 (2, 3)."""
        turn, zoom, across, down, mirror = rng(seed, key).uniform(-1, 1, 5)
        angle, scale = math.radians(self.rotate * turn), 1 + self.zoom * zoom
        cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
        side = -1.0 if self.flip and mirror > 0 else 1.0
        moved = 2 * self.shift * across, 2 * self.shift * down  # the whole side is 2 long
        return np.array([[side * cosine, -sine, moved[0]], [side * sine, cosine, moved[1]]], dtype=np.float32)

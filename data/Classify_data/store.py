"""Images at the network's size, decoded once and kept in memory while they fit.

Resizing, grey or RGB, skipping what cannot be decoded.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress.errors import UserError, printable
from data.Classify_data.source import Source
from data.images import DECODE_ERRORS, Pixels

MEMORY_BUDGET = 1 << 30  # bytes of pixels kept by one data set

_logger = logging.getLogger(__name__)


class ImageStore:
    """The usable images of a source as 8-bit planes, (channels, size, size).

    Every image is decoded once when the store is made, which finds the damaged ones before training starts; those
    beyond the budget are decoded again when asked for.

    Args:
        source: where they come from; images that do not decode are logged and left out.
        size: height and width, pixels.
        channels: 1 or 3.
        memory_budget: bytes of pixels to keep.

    Attributes:
        source: the usable images.
        labels: of each, int64 (N,).

    Raises:
        UserError: no usable image, or a class that has lost its last one.
    """

    def __init__(self, source: Source, size: int, channels: int, memory_budget: int = MEMORY_BUDGET) -> None:
        self.size, self.channels = size, channels
        room = min(len(source), memory_budget // (channels * size * size))
        kept = np.empty((room, channels, size, size), dtype=np.uint8)
        usable: list[int] = []
        with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
            for start in range(0, len(source), 256):  # bounds what is decoded but not yet put away
                chosen = range(start, min(start + 256, len(source)))
                for index, planes in zip(chosen, pool.map(lambda i: self._try(source, i), chosen), strict=True):
                    if planes is None:
                        continue
                    if len(usable) < room:
                        kept[len(usable)] = planes
                    usable.append(index)
        self.source = source if len(usable) == len(source) else source.subset(usable)
        self._kept = torch.from_numpy(kept[: len(usable)])
        self.labels = torch.tensor(self.source.labels, dtype=torch.int64)
        _report(source, self.source)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: list[int]) -> Tensor:
        """Images as 8 bits, (n, channels, size, size)."""
        if max(indices) < len(self._kept):
            return self._kept[indices]
        return torch.stack([self._kept[i] if i < len(self._kept) else self._decoded(i) for i in indices])

    def _decoded(self, index: int) -> Tensor:
        return torch.from_numpy(fit(self.source.load(index), self.size, self.channels))

    def _try(self, source: Source, index: int) -> Pixels | None:
        try:
            return fit(source.load(index), self.size, self.channels)
        except DECODE_ERRORS as e:
            _logger.warning(
                "skipped %s of %s: it cannot be decoded (%s)", source.names[index], source.where, printable(e)
            )
            return None


def fit(pixels: Pixels, size: int, channels: int) -> Pixels:
    """(H, W, 1 or 3) -> planes (channels, size, size): the middle square, by Pillow's bicubic."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (size, size):
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    planes = np.asarray(image)
    return np.ascontiguousarray(planes[None] if channels == 1 else planes.transpose(2, 0, 1))


def _report(before: Source, after: Source) -> None:
    """Says how many images were left out, and refuses to continue without one, or without one of a class."""
    if not len(after):
        raise UserError(f"no usable image in {before.where}: {len(before)} were skipped")
    if len(after) < len(before):
        _logger.warning("%d of %d images of %s were skipped", len(before) - len(after), len(before), before.where)
    lost = sorted(set(before.labels) - set(after.labels))
    if lost:
        names = ", ".join(repr(before.classes[label]) for label in lost)
        raise UserError(f"no image of class {names} in {before.where} can be decoded")

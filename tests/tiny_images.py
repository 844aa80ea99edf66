"""Tiny images for runs of seconds: `tiny_images`."""

from pathlib import Path

import numpy as np
from PIL import Image


def tiny_images(folder: Path, height: int = 48, width: int = 48, smooth: int = 1, test: int = 1) -> None:
    """Writes `images/train` (three), `images/val` (one) and `images/test`, of random colors.

    Args:
        folder: that `images` is made in.
        height: of each, pixels.
        width: of each, pixels.
        smooth: how many times fewer pixels are drawn and enlarged; 1 is noise, of which nothing can be learned.
        test: number of images in `images/test`.
    """
    draw = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 1), ("test", test)):
        place = folder / "images" / part
        place.mkdir(parents=True)
        for i in range(count):
            drawn = draw.integers(0, 256, (height // smooth, width // smooth, 3), dtype=np.uint8)
            image = Image.fromarray(drawn)
            if smooth > 1:
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            image.save(place / f"{part}{i}.png")

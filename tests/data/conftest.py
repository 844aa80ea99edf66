"""Small images in a temporary folder."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.loaders import sr_testing_loader

MakeImages = Callable[..., Path]


def held_out(testdata: str | None, trained: str | None) -> Any:
    """What super-resolution measures of `--testdata`, after a run on a folder (None: the embedded photographs)."""
    checkpoint = {"task": {"data": {"place": trained}}, "network": {"arguments": {"upscale_factor": 2}}}
    return sr_testing_loader(SimpleNamespace(testdata=testdata), checkpoint).dataset


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """`make_images("a/b", 3, (40, 30))` writes 0.png, 1.png, 2.png (width 40, height 30) into a/b."""

    def make(folder: str, count: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Path:
        directory = tmp_path / folder
        directory.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(count)
        for number in range(count):
            pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(directory / f"{number}.png")
        return directory

    return make

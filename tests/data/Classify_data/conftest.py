"""Tiny labelled data sets on disk."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeClasses = Callable[..., Path]


@pytest.fixture
def make_classes(tmp_path: Path) -> MakeClasses:
    """`make_classes("set", {"train/cat": 3, "train/dog": 2})` writes images of 12 x 10; returns the folder."""

    def make(folder: str, counts: Mapping[str, int], mode: str = "RGB") -> Path:
        draw = np.random.default_rng(0)
        for place, count in counts.items():
            directory = tmp_path / folder / place
            directory.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(directory / f"{i}.png")
        return tmp_path / folder

    return make


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """A folder with CIFAR-10's files in small: five batches of four images, four test images."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data = draw.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = [(4 * i + k) % 10 for k in range(4)]
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    names = [f"class{i}".encode() for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return folder

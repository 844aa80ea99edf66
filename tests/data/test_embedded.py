"""The embedded photographs: they are where the table says, split by image, and worth measuring."""

from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from apputils.SR_apputils.metrics import psnr_y
from compress.errors import UserError
from data import embedded
from data.dataset import EvaluationSet
from data.embedded import SPLIT, embedded_images


def test_every_image_of_the_table_loads() -> None:
    images = [image for part in ("train", "validation", "test") for image in embedded_images(part)]
    assert len(images) == len(SPLIT) == 18
    for image in images:
        pixels = image.load()
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 170


def test_parts_share_no_image() -> None:
    names = [{p.name for p in embedded_images(part)} for part in ("train", "validation", "test")]
    assert [len(part) for part in names] == [10, 4, 4]
    assert not (names[0] & names[1])
    assert not (names[0] & names[2])
    assert not (names[1] & names[2])


def test_both_views_of_the_motorcycle_are_on_one_side() -> None:
    assert SPLIT["motorcycle_left.png"][1] == SPLIT["motorcycle_right.png"][1]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_measured_images_are_not_flat_nor_jpeg(part: embedded.Part) -> None:
    """Above 40 dB a bicubic image is as good as its target, and a mean gain would be ruled by noise."""
    images = embedded_images(part)
    assert all(image.path.suffix == ".png" for image in images)
    for item in EvaluationSet(images, 2):
        assert psnr_y(item.baseline, item.target, 2) < 40, item.name


def test_a_image_missing_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SPLIT", {"nothing.png": ("skimage/data", "test")})
    with pytest.raises(UserError, match=r"skimage does not contain the photograph nothing\.png"):
        embedded_images("test")


@pytest.mark.parametrize("spec", [None, ModuleSpec("skimage", None)])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="needs the package skimage, which is not installed"):
        embedded_images("test")

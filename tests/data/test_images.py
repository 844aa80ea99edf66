"""Decoding: every kind of JPEG, put upright, or refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.images import DECODE_ERRORS, ImageFile


def pillows(path: Path) -> Any:
    return np.array(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"quality": 35}, {"subsampling": 0}])
def test_a_jpeg_has_pillows_numbers(mode: str, settings: dict[str, Any], tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    for size in ((37, 51), (64, 64), (5, 90)):
        noise = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(tmp_path / "a.jpg", **settings)
        assert np.array_equal(ImageFile("a", tmp_path / "a.jpg").load(), pillows(tmp_path / "a.jpg"))


def test_a_turned_jpeg_is_put_upright(tmp_path: Path) -> None:
    noise = Image.effect_noise((40, 24), 50).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise.save(tmp_path / "a.jpg", exif=exif)
    loaded = ImageFile("a", tmp_path / "a.jpg").load()
    assert np.array_equal(loaded, np.rot90(pillows(tmp_path / "a.jpg"), -1))


@pytest.mark.parametrize("left", [5, 100, 400, -2])
def test_a_jpeg_that_is_cut_off_is_refused(left: int, tmp_path: Path) -> None:
    Image.effect_noise((80, 80), 50).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:left])
    with pytest.raises(DECODE_ERRORS):
        ImageFile("a", tmp_path / "a.jpg").load()


@pytest.mark.parametrize(("kind", "word"), [("float32", "floating point"), ("int32", "32 bits")])
def test_numbers_without_a_known_range_are_refused(kind: str, word: str, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((40, 40)).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=word):
        ImageFile("a", tmp_path / "a.tif").load()


@pytest.mark.slow
def test_an_image_that_is_too_large_is_refused_without_a_raw_warning(tmp_path: Path) -> None:
    (tmp_path / "large.ppm").write_bytes(b"P6 10000 10000 255\n" + b"\0" * 100)  # Pillow warns, and does not refuse
    code = "from pathlib import Path; from data.images import ImageFile; ImageFile('it', Path('large.ppm')).load()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "ValueError: it would take 100,000,000 pixels" in done.stderr
    assert "Warning" not in done.stderr

"""Damaged images in the folders of every application: skipped or refused, never anything else."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.errors import UserError
from data.Classify_data.find_dataset import place_layout
from data.Classify_data.loaders import classify_testing_loader
from data.Classify_data.store import ImageStore
from data.data import get_training_set, get_validation_set
from data.Deblur_data.loaders import source_of
from data.folders import folder_images
from data.images import DECODE_ERRORS, MOST_PIXELS, ImageFile
from tests.fuzz.damage import Damaged, damaged
from tests.fuzz.watch import fuzz, tiers

SIZE = 48


def saved(form: str, mode: str = "RGB", **settings: Any) -> bytes:
    """An image of noise as the bytes of a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, 2 * SIZE, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((2 * SIZE, SIZE))
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, format=form, **settings)
    return file.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "an image"
    return exif


SAMPLES = {
    "rgb.png": saved("PNG"), "palette.png": saved("PNG", "P"), "grey.png": saved("PNG", "L"),
    "alpha.png": saved("PNG", "RGBA"), "one.png": saved("PNG", "1"), "deep.png": saved("PNG", "I;16"),
    "rgb.jpg": saved("JPEG", exif=_turned()), "cmyk.jpeg": saved("JPEG", "CMYK"),
    "progressive.jpg": saved("JPEG", progressive=True), "rgb.bmp": saved("BMP"), "palette.bmp": saved("BMP", "P"),
    "rgb.ppm": saved("PPM"), "grey.ppm": saved("PPM", "L"), "plain.tif": saved("TIFF"),
    "lzw.tif": saved("TIFF", compression="tiff_lzw"), "deflate.tiff": saved("TIFF", compression="tiff_deflate"),
    "jpeg.tif": saved("TIFF", compression="jpeg"), "float.tif": saved("TIFF", "F"), "lab.tif": saved("TIFF", "LAB"),
    "lossy.webp": saved("WEBP", exif=_turned()), "lossless.webp": saved("WEBP", lossless=True),
    "gif.png": saved("GIF"), "icon.bmp": saved("ICO"), "postscript.jpg": saved("EPS"), "pdf.tif": saved("PDF"),
    "text.png": b"no image", "empty.png": b"",
}  # fmt: skip


def png_of(width: int, height: int, compressed: bytes) -> bytes:
    """A grey PNG that claims a size, with right checksums."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for each application's data, with good images in all."""
    for folder, count in (("sr", 3), ("classes/train/a", 2), ("classes/train/b", 2), ("pairs", 3)):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            (tmp_path / folder / f"good{i}.png").write_bytes(SAMPLES["rgb.png"])
    return tmp_path


def read_everywhere(place: Path, name: str, content: bytes) -> None:
    """Puts a file into each folder and makes each application's data sets of them."""
    files = [place / folder / name for folder in ("sr", "classes/train/a", "pairs")]
    for file in files:
        file.write_bytes(content)
    try:
        get_training_set(2, place / "sr", patch_size=16, samples=4)[1]
        len(get_validation_set(2, place / "sr"))
        source = place_layout(place / "classes").open("train")
        assert source.channels in (1, 3)
        assert ImageStore(source, 16, 3).batch([0]).shape == (1, 3, 16, 16)
        source_of(place / "pairs", "train", False, 10.0).crop(0, 16, np.random.default_rng(0))
    finally:
        for file in files:
            file.unlink()


@tiers(few=40, many=2000)
def test_damaged_images(place: Path, examples: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    warnings.simplefilter("ignore")
    decoded = [0, 0]

    def work(case: Damaged) -> None:
        file = place / case.name
        file.write_bytes(case.content)
        try:
            pixels = ImageFile("it", file).load()
            assert pixels.dtype == np.uint8
            assert pixels.ndim == pixels.shape[2] == 3
            decoded[0] += 1
        except DECODE_ERRORS:
            decoded[1] += 1
        read_everywhere(place, case.name, case.content)

    fuzz(damaged(SAMPLES), examples, work)
    assert min(decoded) > examples // 10, "the mutator breaks everything, or nothing"


BOMBS: dict[str, Callable[[], bytes]] = {
    "claims.png": lambda: png_of(60_000, 60_000, zlib.compress(b"\0" * 1000)),
    "thin.png": lambda: png_of(1, 2**31 - 1, zlib.compress(b"\0" * 1000)),
    "full.png": lambda: png_of(12_000, 12_000, zlib.compress(b"\0" * (12_001 * 12_000), 9)),
    "text.png": lambda: SAMPLES["rgb.png"][:33] + _text_bomb() + SAMPLES["rgb.png"][33:],
    "claims.bmp": lambda: SAMPLES["rgb.bmp"][:18] + struct.pack("<ii", 60_000, 60_000) + SAMPLES["rgb.bmp"][26:],
    "claims.ppm": lambda: b"P6 100000 100000 255\n" + b"\0" * 100,
}


def _text_bomb() -> bytes:
    content = b"Comment\0\0" + zlib.compress(b"x" * (1 << 28), 9)
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


@pytest.mark.parametrize("name", sorted(BOMBS))
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_and_named(place: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    content = BOMBS[name]()
    assert len(content) < 400_000
    (place / "sr" / name).write_bytes(content)
    with pytest.raises(DECODE_ERRORS):
        ImageFile("it", place / "sr" / name).load()
    training = get_training_set(2, place / "sr", patch_size=16, samples=4)
    assert len(training.store) == 2  # of three good ones, the third is held out
    assert name in caplog.text


def test_the_largest_image_that_is_read_is_of_some_use() -> None:
    assert 8192 * 8192 <= MOST_PIXELS < 180_000_000


def test_a_format_that_starts_a_program_is_not_opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    (place / "sr" / "postscript.png").write_bytes(SAMPLES["postscript.jpg"])
    with pytest.raises(DECODE_ERRORS, match="cannot identify image file"):
        ImageFile("it", place / "sr" / "postscript.png").load()


NAMES = [
    "with spaces.png", "ünï çödé 😀.png", "new\nline.png", "tab\tbell\x07.png", "\x1b]0;title\x07.png", "-rf.png",
    "²³.png", "=cmd|' C calc'!A0.png", "<script>.png", "%s %n {0}.png", "a" * 200 + ".png", b"no utf-8 \xff\xfe.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_do_no_harm(place: Path, name: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    given = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    read_everywhere(place, given, SAMPLES["rgb.png"])
    (place / "sr" / given).write_bytes(SAMPLES["rgb.png"])
    all_images = folder_images(place / "sr", "test")
    assert len(all_images) == 4
    assert all(one_image.name.isprintable() for one_image in all_images)
    (place / "sr" / given).write_bytes(b"broken")
    get_training_set(2, place / "sr", patch_size=16, samples=4)
    assert "skipped" in caplog.text


@pytest.mark.parametrize("name", NAMES[:-2] + NAMES[-1:])
def test_names_of_classes_do_no_harm(place: Path, name: str | bytes) -> None:
    given = (name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")).removesuffix(".png")
    (place / "classes/train/a").rename(place / "classes/train" / given)
    source = place_layout(place / "classes").open("train")
    assert all(each.isprintable() for each in source.classes)
    ", ".join(source.classes).encode()  # as a file of text keeps it


def test_a_checkpoint_of_another_kind_of_data_is_told(place: Path) -> None:
    class Options:
        testdata = predict = None

    with pytest.raises(UserError, match="the classes cannot be read"):
        classify_testing_loader(Options, {"task": {"classes": "abc"}, "options": {}})

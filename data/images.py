"""One image: reading its file, and Pillow's bicubic both ways.

The file on disk -> RGB array, and the low resolution made of it. Called by the other data modules.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.io import files

Pixels = NDArray[np.uint8]

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 1 << 26  # a file of some kilobytes can stand for any number of pixels
# Pillow warns of a larger image than this one, which `opened` refuses in a sentence that names the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# What Pillow raises, depending on the format, for a file that is damaged, cut short or absurdly large.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """An image that has not been decoded yet.

    Attributes:
        name: what reports call it: the file name without its ending.
        path: the file.
    """

    name: str
    path: Path

    def load(self) -> Pixels:
        """Decodes the file: (height, width, 3), 0..255. Raises one of `DECODE_ERRORS` if that fails."""
        with opened(self.path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)

    def size(self) -> tuple[int, int]:
        """Height and width in pixels as they are stored, read from the file's head; raises as `load`."""
        with opened(self.path) as image:
            return image.height, image.width

    def smaller_side(self) -> int:
        """In pixels, of a file that decodes to its end; raises as `load`. JPEG takes half the time of decoding it."""
        with opened(self.path) as image:
            side = min(image.size)
            # JPEG data are read to their end, and give an eighth of the pixels; other formats know no such thing.
            image.draft(None, (1, 1))
            _to_rgb(image)
            return side


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file inside the block, its head read.

    Only the formats of `FORMATS` are tried, whatever the file's ending: Pillow knows others that start a program.

    Raises:
        one of `DECODE_ERRORS`: it is none of these, or would take more than `MOST_PIXELS` pixels.
    """
    with files.opened(path) as file, Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise ValueError(f"it would take {pixels:,} pixels; at most {MOST_PIXELS:,} are read")
        yield image


def _to_rgb(image: Image.Image) -> Pixels:
    """RGB pixels of an image of any mode; grey is repeated three times, transparency is dropped.

    Raises:
        ValueError: its numbers have no range that is known, as those of floating point have.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "of floating point" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(f"its pixels are {kind}, whose black and white are not known; store 8 or 16 bits a colour")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> Pixels:
    """(H, W, 3) of an RGB image. `np.asarray` would copy once more."""
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.height, image.width, 3)


def planes(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (3, H, W): crops of colour planes are quick to copy."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def crop_to_multiple(pixels: Pixels, scale: int) -> Pixels:
    """Cuts right and bottom so that height and width (pixels) are multiples of `scale`."""
    height, width = pixels.shape[0] // scale * scale, pixels.shape[1] // scale * scale
    return pixels[:height, :width]


def down_sample(pixels: Pixels, scale: int) -> Pixels:
    """Pillow's bicubic (antialiased, a = -0.5): (H, W, 3) -> (H / scale, W / scale, 3), 8 bits."""
    return _resize(pixels, pixels.shape[1] // scale, pixels.shape[0] // scale)


def up_sample(pixels: Pixels, scale: int) -> Pixels:
    """Pillow's bicubic: (h, w, 3) -> (h * scale, w * scale, 3), 8 bits. The baseline of every report."""
    return _resize(pixels, pixels.shape[1] * scale, pixels.shape[0] * scale)


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    return _pixels(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

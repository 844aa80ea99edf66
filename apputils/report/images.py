"""Images of a run for its page: cut to the middle, losslessly packed, as data URIs.

Finding and packing what a tester wrote to results/<run>/images/ as `<image>_<kind>.png`.
"""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from compress.io.files import opened

KINDS = ("bicubic", "blurred", "output", "target")  # baselines first; all of the output's size can be laid over it
MOST, SIDE = 4, 480  # images on a page, and their pixels at most


@dataclass(frozen=True)
class ImageFile:
    """One image in several versions of equal size.

    Attributes:
        name: of the image.
        width: in pixels.
        height: in pixels.
        versions: kind -> data URI.
    """

    name: str
    width: int
    height: int
    versions: dict[str, str]


def images_of(folder: Path) -> list[ImageFile]:
    """The first images of a folder that have an output and something to compare it with."""
    stems = [re.sub(r"_output\.png$", "", path.name) for path in sorted(folder.glob("*_output.png"))]
    found = []
    for stem in stems[:MOST]:
        files = {kind: folder / f"{stem}_{kind}.png" for kind in KINDS}
        images = {kind: _middle(path) for kind, path in files.items() if path.is_file()}
        images = {kind: image for kind, image in images.items() if image.size == images["output"].size}
        if len(images) > 1:
            packed = {kind: _packed(image) for kind, image in images.items()}
            found.append(ImageFile(stem, *images["output"].size, packed))
    return found


def _middle(path: Path) -> Image.Image:
    with opened(path) as file, Image.open(file) as image:
        left, top = (max(size - SIDE, 0) // 2 for size in image.size)
        return image.convert("RGB").crop((left, top, left + min(SIDE, image.width), top + min(SIDE, image.height)))


def _packed(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=True, method=2, quality=0)  # the same pixels in a third of the time, 4 % larger
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")

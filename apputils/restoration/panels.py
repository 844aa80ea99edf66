"""Images of results: saved tensors, and panels side by side with their PSNR.

Pillow's part. Called by the testers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from compress.io.files import replacing

CAPTION = 28  # pixels above each panel
PNG_LEVEL = 2  # the same pixels in a third of the time of Pillow's 6, 8 % larger


def to_image(one_image: Tensor) -> Image.Image:
    """RGB (3, H, W) in [0, 1] -> 8 bits, rounded."""
    pixels = one_image.detach().cpu().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def save_image(one_image: Tensor, path: Path) -> None:
    """Writes an image as PNG; the folder is made if needed."""
    write_image(to_image(one_image), path)


def write_image(image: Image.Image, path: Path) -> None:
    """Writes an image in the format of the file's ending, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, compress_level=PNG_LEVEL)  # other formats leave it out


def side_by_side(panels: Mapping[str, Tensor], target: Tensor, psnr: Callable[[Tensor], float]) -> Image.Image:
    """The panels in a row, each captioned with its name and, unless it is the target, its PSNR in dB.

    Args:
        panels: name -> RGB (3, H, W) in [0, 1], all of the target's size.
        target: the panel without a PSNR.
        psnr: of a panel against the target, dB.
    """
    height, width = target.shape[-2:]
    sheet = Image.new("RGB", (len(panels) * (width + 4) - 4, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i, (name, pixels) in enumerate(panels.items()):
        left = i * (width + 4)
        quality = "" if pixels is target else f"  {psnr(pixels):.2f} dB"
        draw.text((left + 6, 3), name + quality, fill="black", font=font)
        sheet.paste(to_image(pixels), (left, CAPTION))
    return sheet

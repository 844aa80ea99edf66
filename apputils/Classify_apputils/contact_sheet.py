"""Images in rows, each above what it was taken for.

`contact_sheet`. Called by the trainer, for TensorBoard.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from apputils.restoration.panels import to_image

COLUMNS, SIDE, CAPTION = 8, 72, 14  # images in a row; pixels of an image, of the line below it
RIGHT, WRONG = "#1a7f37", "#c62828"


def contact_sheet(images: Tensor, answers: Sequence[str], right: Sequence[bool]) -> Tensor:
    """The images, in rows of eight, and below each its answer: green where it is right, else red.

    Args:
        images: (n, 1 or 3, H, W) in [0, 1].
        answers: n names of classes.
        right: for each whether it is the image's class.

    Returns:
        RGB (3, height, width) in [0, 1].
    """
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (min(len(images), COLUMNS) * SIDE, rows * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, (one_image, answer, fits) in enumerate(zip(images, answers, right, strict=True)):
        left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + CAPTION)
        image = to_image(one_image.expand(3, -1, -1)).resize((SIDE - 2, SIDE - 2), Image.Resampling.NEAREST)
        sheet.paste(image, (left, top))
        draw.text((left + 1, top + SIDE - 1), answer[:12], fill=RIGHT if fits else WRONG, font=font)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255

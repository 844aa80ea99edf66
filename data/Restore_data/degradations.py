"""What `--degradation` may be: `noise:25`, `jpeg:40`, `blur:1.5`, `downup:2`, combinations with `+`, or one's own code.

`degradation_of`, which makes a `Degradation` of the text; `written`.
"""

import io
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from compress.errors import UserError, did_you_mean
from data.images import Pixels, down_sample, planes, up_sample
from data.pairs import Degradation

Change = Callable[[Pixels, np.random.Generator], Pixels]  # (H, W, 3) -> (H, W, 3), 0..255
TRIED = (
    (128, 128),
    (96, 160),
    (64, 48),
)  # pixels: height, width of images that one's own function is tried with
UNREPEATABLE = (
    "so no run could be repeated or resumed; draw from its second argument (`draw.normal(...)`), not from "
    "numpy.random, random or torch"
)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
TAPS = 4  # low-resolution pixels that bicubic up-sampling and the down-sampling before it reach


class Steps(Degradation):
    """Changes of an image, one after the other.

    Args:
        text: their parts, written the same way each time.
        changes: each of (H, W, 3), 0..255.
        margin: pixels that all of them together reach.
    """

    def __init__(self, text: str, changes: Sequence[Change], margin: int) -> None:
        self.text, self.changes, self.margin = text, changes, margin

    def whole(self, sharp: Pixels, draw: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        pixels = np.ascontiguousarray(sharp.transpose(1, 2, 0))
        for change in self.changes:
            pixels = change(pixels, draw)
        return planes(pixels)

    def facts(self) -> dict[str, Any]:
        """See `Degradation`."""
        return {"degradation": self.text}


def degradation_of(parts: Sequence[str], own: Callable[[str], Change]) -> Degradation:
    """The degradation that a text names.

    Args:
        parts: of the text, which joins them by `+`.
        own: gives the function of one's own of `FILE.py:NAME`.

    Raises:
        UserError: a part is unknown, or its number is none that it may have.
    """
    text = "+".join(parts)
    changes, margin = [], 0
    for part in parts:
        name, _, value = part.partition(":")
        place, colon, function = part.rpartition(":")
        if not part or (name in KINDS and "," in value):
            what = f"{part!r} is not one part" if part else "there is nothing beside a +"
            raise UserError(f"--degradation={text}: {what}; several are joined by +, as in noise:10+jpeg:40")
        if name in KINDS:
            change, reach = KINDS[name][0](_number(name, value.strip(), part))
        elif place.endswith(".py") and not function.isidentifier():
            raise UserError(f"--degradation={text}: {part!r} names no function; write {place}:FUNCTION")
        elif colon and (place.endswith(".py") or place.replace(".", "").isidentifier()) and function.isidentifier():
            change, reach = _checked(own(part), part), 0
        else:
            raise UserError(
                f"--degradation={text}: unknown part {part!r}; {did_you_mean(name, KINDS)}; write noise:SIGMA, "
                "jpeg:QUALITY, blur:SIGMA, downup:FACTOR, several joined by +, or your own FILE.py:FUNCTION"
            )
        changes.append(change)
        margin += reach
    return Steps(written(parts), changes, margin)


def written(parts: Sequence[str]) -> str:
    """A text of these parts, equal where they mean the same: `noise:25` of `noise:25.0`."""
    split = [(part, *(each.strip() for each in part.partition(":"))) for part in parts]
    return "+".join(
        f"{name}:{float(value):.12g}" if name in KINDS and _is_number(value) else part for part, name, _, value in split
    )


def noise(sigma: float) -> tuple[Change, int]:
    """Gaussian noise, standard deviation in grey levels of 255; rounded and clipped as a camera writes it."""

    def change(pixels: Pixels, draw: np.random.Generator) -> Pixels:
        noisy = pixels + sigma * draw.standard_normal(pixels.shape, dtype=np.float32)
        return noisy.round().clip(0, 255).astype(np.uint8)

    return change, 0


def jpeg(quality: float) -> tuple[Change, int]:
    """JPEG and back, by Pillow with its default chroma subsampling; the blocks begin at the corner of what it is given.

    That is the image's corner. In training it is the crop's, or behind `blur` and `downup` that of the wider crop.
    """

    def change(pixels: Pixels, draw: np.random.Generator) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
        with Image.open(io.BytesIO(buffer.getvalue())) as image:
            return np.array(image.convert("RGB"))

    return change, 0


def blur(sigma: float) -> tuple[Change, int]:
    """Gaussian blur, standard deviation in pixels."""

    def change(pixels: Pixels, draw: np.random.Generator) -> Pixels:
        return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))

    return change, math.ceil(4 * sigma)


def downup(factor: float) -> tuple[Change, int]:
    """Bicubic down-sampling and back up: what the low resolution does not hold is lost."""
    scale = int(factor)

    def change(pixels: Pixels, draw: np.random.Generator) -> Pixels:
        height, width = pixels.shape[:2]
        beyond = ((0, -height % scale), (0, -width % scale), (0, 0))
        even = np.pad(pixels, beyond, mode="symmetric")
        return up_sample(down_sample(even, scale), scale)[:height, :width]

    return change, TAPS * scale


KINDS: dict[str, tuple[Callable[[float], tuple[Change, int]], float, float, bool, str]] = {
    # name -> what makes it, smallest and largest number, whether a whole one, what it is
    "noise": (noise, 0.1, 255.0, False, "a standard deviation in grey levels"),
    "jpeg": (jpeg, 1, 100, True, "a quality"),
    "blur": (blur, 0.1, 20.0, False, "a standard deviation in pixels"),
    "downup": (downup, 2, 8, True, "a factor"),
}


def _number(name: str, value: str, part: str) -> float:
    _, smallest, largest, whole, words = KINDS[name]
    number = float(value) if _is_number(value) else math.nan
    if not smallest <= number <= largest or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"--degradation: {part!r} must be {name}:N, N {words}, {kind} from {smallest:g} to {largest:g}")
    return number


def _is_number(text: str) -> bool:
    """Whether it is written in plain digits: Python takes those of other scripts too, and `1_0`."""
    return NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _checked(function: Change, part: str) -> Change:
    """One's own function, whose result is looked at; it is tried on small images now.

    What it draws from a global generator is seen at each call. What has no generator, as the time or a counter, is seen
    only if it shows in these few.
    """

    def change(pixels: Pixels, draw: np.random.Generator) -> Pixels:
        before = _global_generators()
        given = np.asarray(function(pixels.copy(), draw))
        if _global_generators() != before:
            raise UserError(
                f"--degradation={part} draws from, or seeds, a generator of numpy.random, random or torch, "
                f"{UNREPEATABLE}"
            )
        if given.shape != pixels.shape or given.dtype != np.uint8:
            raise UserError(
                f"--degradation={part} gave {given.dtype} of shape {given.shape} for an image uint8 of shape "
                f"{pixels.shape}; it must give the same kind and shape"
            )
        return given

    images = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in TRIED]
    once, again = ([change(image, np.random.default_rng(0)) for image in images] for _ in range(2))
    if not all(map(np.array_equal, once, again)):
        raise UserError(
            f"--degradation={part} gives something else each time for the same image and the same generator, "
            f"{UNREPEATABLE}. Nothing was started"
        )
    return change


def _global_generators() -> tuple[object, ...]:
    """The states of the generators that a process has one of."""
    kind, words, *more = np.random.get_state()
    return random.getstate(), kind, np.asarray(words).tobytes(), *more, torch.get_rng_state().numpy().tobytes()

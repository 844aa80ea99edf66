"""Quality of an up-sampled image as super-resolution papers report it: PSNR and SSIM of the Y channel.

Pure functions on image tensors. Called by the solvers and testers.

The convention: RGB is clamped and rounded to 8 bits, converted to BT.601's Y (as MATLAB's rgb2ycbcr,
16..235) in floating point, and a border as wide as the scale is cut.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from apputils.restoration.metrics import psnr

_Y_WEIGHTS = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1]
_Y_OFFSET = 16.0
_known: Any = WeakTensorKeyDictionary()  # target -> its version, Y; an entry goes with its tensor
_SSIM_WINDOW = 11  # pixels: what scikit-image makes of sigma 1.5 cut at 3.5 sigma


def y_channel(image: Tensor) -> Tensor:
    """BT.601 luma: RGB (..., 3, H, W) in [0, 1] -> (..., H, W), float64 in [16, 235].

    The image is clamped and rounded to 8 bits first, as if it had been written to a file.
    """
    levels = image.detach().mul(255).round_().clamp_(0, 255).double()  # new memory, written in place from here on
    red, green, blue = (plane.mul_(weight / 255) for weight, plane in zip(_Y_WEIGHTS, levels.unbind(-3), strict=True))
    return red.add_(green).add_(blue).add_(_Y_OFFSET)


def psnr_y(output: Tensor, target: Tensor, border: int) -> float:
    """Peak signal-to-noise ratio of Y, dB; infinite for equal images.

    Args:
        output: RGB (3, H, W) or (1, 3, H, W), nominally in [0, 1].
        target: the same shape.
        border: pixels cut from each side, >= 0; the scale by convention.

    Raises:
        ValueError: shapes differ, several images, or nothing is left inside the border.
    """
    return psnr(*_inner_luma(output, target, border, smallest=1))


def ssim_y(output: Tensor, target: Tensor, border: int) -> float:
    """Structural similarity of Y, in [-1, 1] (Wang et al. 2004: Gaussian window, sigma 1.5).

    Args and errors are those of `psnr_y`; at least 11 pixels must be left inside the border.
    """
    first, second = _inner_luma(output, target, border, smallest=_SSIM_WINDOW)
    similarity = structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(similarity)


def _inner_luma(
    output: Tensor, target: Tensor, border: int, smallest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Y of both images inside the border, (H - 2 border, W - 2 border)."""
    if output.shape != target.shape:
        raise ValueError(f"output is {tuple(output.shape)}, target is {tuple(target.shape)}; they must agree")
    if output.dim() not in (3, 4) or output.shape[-3] != 3 or output.shape[:-3].numel() != 1:
        raise ValueError(f"one RGB image (3, H, W) is measured at a time; given {tuple(output.shape)}")
    height, width = output.shape[-2:]
    if min(height, width) - 2 * border < smallest:
        raise ValueError(
            f"{width} x {height} pixels without a border of {border} leave less than {smallest} to measure"
        )
    inner = (slice(border, height - border), slice(border, width - border))
    return _luma(output)[inner], _luma_of_target(target)[inner]


def _luma_of_target(target: Tensor) -> NDArray[np.float64]:
    """Y of an image that outputs are compared with again and again; computed once as long as it stays as it is."""
    if target.is_inference():  # torch does not count what is written to it
        return _luma(target)
    version, known = _known.get(target, (-1, None))
    if known is None or version != target._version:
        known = _luma(target)
        _known[target] = target._version, known
    return known


def _luma(image: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = y_channel(image).reshape(image.shape[-2:]).cpu().numpy()
    return found

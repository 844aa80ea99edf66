"""Quality of a restored image as deblurring papers report it: PSNR and SSIM of RGB, without a border cut.

Pure functions on image tensors. Images are clamped and rounded to 8 bits first, as if written to a file.
"""

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity  # its PSNR would import scipy.stats, a second more
from torch import Tensor


def psnr_rgb(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio over all three colours, dB; infinite for equal images.

    Args:
        output: RGB (3, H, W), nominally in [0, 1].
        target: the same shape.
    """
    return psnr(levels(output).astype(np.float64), levels(target).astype(np.float64))


def psnr(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio of values of which 255 is the largest, dB; infinite for equal ones."""
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim_rgb(output: Tensor, target: Tensor) -> float:
    """Mean over the colours of structural similarity, in [-1, 1] (Wang et al. 2004: Gaussian window, sigma 1.5)."""
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(levels(target), levels(output), data_range=255, channel_axis=0, **window))


def levels(image: Tensor) -> NDArray[np.uint8]:
    """RGB in [0, 1] -> 0..255, the same shape."""
    rounded: NDArray[np.uint8] = image.detach().cpu().mul(255).round().clamp(0, 255).byte().numpy()
    return rounded

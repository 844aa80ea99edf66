"""ACIQ: the clip that is best for a Gauss or Laplace distribution, solved from its equation.

The two expected errors, their derivatives and the root. Paper: Banner et al. 2018, "Post-training 4-bit quantization
of convolution networks for rapid-deployment", arXiv 1810.05723. Values are clipped to [-alpha, alpha] around their
mean and rounded to 2^bits steps; the error is what clipping costs plus what rounding costs, alpha^2 / (3 * 4^bits).

    laplace_clip(4)     # 5.03 times the mean absolute deviation, as in the paper's table
    gauss_clip(4)       # 2.56 times the standard deviation
"""

import math
from collections.abc import Callable

WIDEST = 64.0  # no root lies above it for up to 16 bits


def laplace_error(alpha: float, bits: int) -> float:
    """Mean square error of a Laplace distribution of mean absolute deviation 1 (section 3.1, eq. 8)."""
    return 2 * math.exp(-alpha) + alpha**2 / (3 * 4**bits)


def laplace_slope(alpha: float, bits: int) -> float:
    """The derivative of `laplace_error` by alpha; zero at the best clip (eq. 9)."""
    return 2 * alpha / (3 * 4**bits) - 2 * math.exp(-alpha)


def gauss_error(alpha: float, bits: int) -> float:
    """Mean square error of a Gauss distribution of standard deviation 1 (appendix, Gauss case)."""
    clipped = (alpha**2 + 1) * math.erfc(alpha / math.sqrt(2)) - _BELL * alpha * math.exp(-(alpha**2) / 2)
    return clipped + alpha**2 / (3 * 4**bits)


def gauss_slope(alpha: float, bits: int) -> float:
    """The derivative of `gauss_error` by alpha; zero at the best clip."""
    tails = 2 * alpha * math.erfc(alpha / math.sqrt(2)) - 2 * _BELL * math.exp(-(alpha**2) / 2)
    return tails + 2 * alpha / (3 * 4**bits)


def laplace_clip(bits: int) -> float:
    """The best alpha of a Laplace distribution, in mean absolute deviations; bits 1 to 16."""
    return _root(lambda alpha: laplace_slope(alpha, bits))


def gauss_clip(bits: int) -> float:
    """The best alpha of a Gauss distribution, in standard deviations; bits 1 to 16."""
    return _root(lambda alpha: gauss_slope(alpha, bits))


_BELL = math.sqrt(2 / math.pi)


def _root(slope: Callable[[float], float]) -> float:
    """Where a slope that starts below zero and ends above crosses it, by bisection to the last digit."""
    low, high = 0.0, WIDEST
    # Ends when no float lies between the two; no tolerance to choose.
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high

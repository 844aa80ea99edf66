"""Statistics -> the range that is rounded: one function for activations, one for weights.

The methods of `clip_acts`. A range is two numbers, low <= 0 <= high.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from compress.arguments.checked import CheckedArguments
from compress.quantization.post_training.aciq import gauss_clip, laplace_clip
from compress.quantization.post_training.histogram import (
    least_entropy_cells,
    least_error_clip,
    least_error_range,
    percentile,
    square_error,
)  # fmt: skip
from compress.quantization.post_training.statistics import TensorStatistics
from compress.quantization.range_numbers import Mode, integers_of, scale_and_zero

Method = Literal["NONE", "AVG", "MOVING_AVERAGE", "N_STD", "PERCENTILE", "MSE", "GAUSS", "LAPLACE", "KL"]
OF_WEIGHTS = ("N_STD", "PERCENTILE", "MSE", "GAUSS", "LAPLACE")  # the others average batches or are the full range
NEED_HISTOGRAM = ("PERCENTILE", "MSE", "KL")
FRACTIONS = 91  # of a weight's range, from 0.1 to 1, tried for the least error


@dataclass(frozen=True)
class Clipping(CheckedArguments):
    """How a range is chosen.

    Attributes:
        method: see `PostTrainLinearQuantizer`.
        n_stds: standard deviations on either side of the mean, of `N_STD`.
        percent: of the values that stay inside at either end, of `PERCENTILE`, (50, 100].
    """

    method: Method = "NONE"
    n_stds: Annotated[float, Field(gt=0.0)] | None = None
    percent: Annotated[float, Field(gt=50.0, le=100.0)] = 99.99


def activation_range(
    stats: TensorStatistics, how: Clipping, bits: int, mode: Mode, signed: bool
) -> tuple[float, float]:
    """The range of an activation.

    Of an activation that is never negative, `GAUSS` and `LAPLACE` take the values as the positive half of a
    distribution around 0 (arXiv 1810.05723, the case of a fused ReLU): its width is that of the mirrored values, and
    the integers, all on one side, are worth one bit more.
    """
    method = how.method
    if method in NEED_HISTOGRAM:
        low, high = _by_histogram(stats, how, bits, mode, signed)
    elif method == "AVG":
        low, high = stats.avg_min, stats.avg_max
    elif method == "MOVING_AVERAGE":
        low, high = stats.moving_min, stats.moving_max
    elif method == "NONE":
        low, high = stats.min, stats.max
    else:
        low, high = _by_width(stats, how, bits, signed)
    # No method may reach further than the data do, and 0 is always inside.
    low, high = min(max(low, stats.min), 0.0), max(min(high, stats.max), 0.0)
    return (low if signed else 0.0), high


def _by_width(stats: TensorStatistics, how: Clipping, bits: int, signed: bool) -> tuple[float, float]:
    if how.method == "N_STD":
        distance, centre = (how.n_stds or 0.0) * stats.std, stats.mean
    elif how.method == "GAUSS":
        width = stats.std if signed else math.sqrt(2 * (stats.std**2 + stats.mean**2))  # E x^2 of one half is s^2 / 2
        distance, centre = gauss_clip(bits if signed else bits + 1) * width, stats.mean if signed else 0.0
    else:
        width = stats.b if signed else 2 * stats.mean  # E x of one half is b / 2
        distance, centre = laplace_clip(bits if signed else bits + 1) * width, stats.mean if signed else 0.0
    return centre - distance, centre + distance


def _by_histogram(stats: TensorStatistics, how: Clipping, bits: int, mode: Mode, signed: bool) -> tuple[float, float]:
    peak, counts = stats.peak, stats.histogram
    if peak == 0:
        return 0.0, 0.0
    if how.method == "PERCENTILE":
        return percentile(counts, -peak, peak, 100 - how.percent), percentile(counts, -peak, peak, how.percent)
    if how.method == "KL":
        # The histogram is of |x|: half of the levels of a signed range lie on its side.
        levels = 2 ** (bits - 1) if signed else 2**bits
        clip = peak * least_entropy_cells(stats.absolute(), levels) / len(stats.absolute())
        return -clip, clip
    centres = (np.arange(len(counts)) + 0.5) / len(counts) * 2 * peak - peak
    there = counts > 0
    counts, centres = counts[there], centres[there]

    def error(low: float, high: float) -> float:
        scale, zero = scale_and_zero(torch.tensor(low), torch.tensor(high), mode, bits)
        return square_error(counts, centres, float(scale), float(zero), *integers_of(mode, bits))

    if mode.startswith("SYMMETRIC"):
        clip = least_error_clip(lambda each: error(-each, each), peak)
        return -clip, clip
    return least_error_range(error, min(stats.min, 0.0) if signed else 0.0, max(stats.max, 0.0))


def weight_range(weight: Tensor, how: Clipping, bits: int, mode: Mode, axis: int | None) -> tuple[Tensor, Tensor]:
    """The ends of a weight's range, each of shape () or (channels,) along `axis`.

    `MSE` shrinks both ends by one factor and takes that with the least square error, in each channel.
    """
    rows = weight.detach().reshape(1, -1) if axis is None else weight.detach().movedim(axis, 0).flatten(1)
    low, high = torch.aminmax(rows, dim=1)
    if how.method == "MSE":
        factor = _least_error_factor(rows, low, high, bits, mode)
        low, high = low * factor, high * factor
    elif how.method == "PERCENTILE":
        ends = np.percentile(rows.double().cpu().numpy(), [100 - how.percent, how.percent], axis=1)
        low, high = (torch.from_numpy(each).to(rows) for each in ends)
    elif how.method in OF_WEIGHTS:
        centre = rows.mean(1)
        distance = _distance(rows, centre, how, bits)
        low, high = torch.maximum(centre - distance, low), torch.minimum(centre + distance, high)
    return (low[0], high[0]) if axis is None else (low, high)


def _distance(rows: Tensor, centre: Tensor, how: Clipping, bits: int) -> Tensor:
    away = rows - centre[:, None]
    if how.method == "LAPLACE":
        return laplace_clip(bits) * away.abs().mean(1)
    return (gauss_clip(bits) if how.method == "GAUSS" else (how.n_stds or 0.0)) * away.square().mean(1).sqrt()


def _least_error_factor(rows: Tensor, low: Tensor, high: Tensor, bits: int, mode: Mode) -> Tensor:
    smallest, largest = integers_of(mode, bits)
    best, least = torch.ones_like(low), torch.full_like(low, math.inf)
    for factor in torch.linspace(1.0, 0.1, FRACTIONS).tolist():
        scale, zero = (each[:, None] for each in scale_and_zero(low * factor, high * factor, mode, bits))
        integers = (torch.round(rows / scale) + zero).clamp(smallest, largest)
        error = ((integers - zero) * scale - rows).square().mean(1)
        best, least = torch.where(error < least, factor, best), torch.minimum(error, least)
    return best

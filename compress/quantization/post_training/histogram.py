"""Ranges chosen from a histogram: percentile, least mean square error, least relative entropy.

Pure functions of counts. A histogram counts |bins| equal cells from `low` to `high`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
STEPS = 128  # candidates of a search for the least square error
ROUNDS = 4  # of the search over both ends of an asymmetric range


def percentile(counts: Array, low: float, high: float, percent: float) -> float:
    """The value below which `percent` of the counts lie, linear within a cell."""
    edges = np.linspace(low, high, len(counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(percent / 100 * below[-1], below, edges))


def square_error(counts: Array, centres: Array, scale: float, zero: float, smallest: int, largest: int) -> float:
    """Mean square error of rounding the cells' centres to scale * (integer - zero), integers in [smallest, largest]."""
    integers = np.clip(np.round(centres / scale) + zero, smallest, largest)
    return float(counts @ np.square((integers - zero) * scale - centres) / counts.sum())


def least_error_clip(error: Callable[[float], float], widest: float) -> float:
    """The clip in (0, widest] with the least error, of `STEPS` equal steps, then refined around the best."""
    candidates = widest * np.arange(1, STEPS + 1) / STEPS
    best = float(min(candidates, key=error))
    # One cell to either side, in tenths.
    finer = best + widest / STEPS * np.linspace(-1, 1, 21)
    return float(min([best, *(each for each in finer if 0 < each <= widest)], key=error))


def least_error_range(error: Callable[[float, float], float], low: float, high: float) -> tuple[float, float]:
    """The same for both ends of a range that holds 0, each in turn given the other, until neither moves."""
    lower, upper = low, high
    for _ in range(ROUNDS):
        before = (lower, upper)
        if high > 0:
            upper = least_error_clip(partial(error, lower), high)
        if low < 0:
            lower = -least_error_clip(partial(_downwards, error, upper), -low)
        if (lower, upper) == before:
            break
    return lower, upper


def _downwards(error: Callable[[float, float], float], upper: float, distance: float) -> float:
    """The error of a range that reaches so far below zero."""
    return error(-distance, upper)


def relative_entropy(reference: Array, candidate: Array) -> float:
    """Sum of p log(p / q) in nats of two histograms, each normalised; infinite where q is 0 and p is not."""
    there = reference > 0
    if not candidate[there].all() or not there.any():
        return float("inf")
    p, q = reference[there] / reference.sum(), candidate[there] / candidate.sum()
    return float(p @ np.log(p / q))


def merged(counts: Array, levels: int) -> Array:
    """Counts as `levels` cells show them: each level's sum, spread evenly over its cells that are not empty.

    The example of Migacz 2017, "8-bit inference with TensorRT" (GTC), two levels:

        merged([1, 0, 2, 3, 5, 3, 1, 7], 2)     # [2, 0, 2, 2, 4, 4, 4, 4]
    """
    level = np.arange(len(counts)) * levels // len(counts)
    there = (counts > 0).astype(np.float64)
    sums, members = np.bincount(level, counts, levels), np.bincount(level, there, levels)
    return np.asarray(there * (sums / np.maximum(members, 1))[level])


def least_entropy_cells(counts: Array, levels: int) -> int:
    """How many cells from 0 on to keep, so that `levels` levels lose the least information of the counts of |x|.

    For each number of cells the reference is the kept counts with all outliers in the last cell; the candidate are the
    kept counts as `levels` levels show them (Migacz 2017). Fewer than `levels` cells are never kept.
    """
    best, least = len(counts), float("inf")
    outliers = counts[::-1].cumsum()[::-1]  # of cell i and all behind it
    for kept in range(levels, len(counts) + 1):
        reference = counts[:kept].copy()
        reference[-1] = outliers[kept - 1]
        entropy = relative_entropy(reference, merged(counts[:kept], levels))
        if entropy < least:
            best, least = kept, entropy
    return best

"""Pure tensor -> tensor functions: which elements are the least important, and the masks that follow.

Here: scores and exact selection. Not here: settings, state, names, time.
"""

import math

import numpy as np
import torch
from torch import Tensor

from compress.groups import Tile, group_norms, group_size


def round_half_up(value: float) -> int:
    """`value` rounded to the nearest whole number, a half upwards (Python's `round` takes halves to even)."""
    return math.floor(value + 0.5)


def kth_smallest(scores: Tensor, k: int) -> Tensor:
    """The k-th smallest score (k from 1), as a scalar tensor on the scores' device.

    On the CPU this is numpy's partition, about seven times faster than `torch.kthvalue` there and far
    cheaper than a sort: masks of whole networks are made anew each epoch.
    """
    flat = scores.reshape(-1)
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        array = flat.numpy()
        return torch.from_numpy(np.partition(array, k - 1)[k - 1 : k])[0]
    return torch.kthvalue(flat, k).values


def mask_smallest(scores: Tensor, zeros: int) -> Tensor:
    """A mask with exactly `zeros` elements off: those of the smallest scores, also when scores tie.

    Ties are broken by position, the earlier element goes first, so that every process gets the same mask.

    Args:
        scores: importance of each element, any shape, no NaN.
        zeros: how many elements to prune, 0 to `scores.numel()`.

    Returns:
        bool tensor of the scores' shape, True = kept.

    Example: scores [3, 1, 1, 2] with zeros=1 give [True, False, True, True].
    """
    if zeros <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if zeros >= scores.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_smallest(scores, zeros)
    mask = scores > threshold
    surplus = scores.numel() - int(torch.count_nonzero(mask)) - zeros  # ties at the threshold that stay
    if surplus:
        ties = torch.nonzero(scores.reshape(-1) == threshold).reshape(-1)
        mask.view(-1)[ties[-surplus:]] = True
    return mask


def zeros_of(level: float, count: int) -> int:
    """How many of `count` elements a level prunes: round(level * count), but all of them only for 1.0."""
    if level >= 1.0:
        return count
    return min(round_half_up(level * count), count - 1)


def level_mask(weight: Tensor, level: float) -> Tensor:
    """Prunes the fraction `level` of a weight by magnitude: exactly round(level * n) zeros of n elements.

    At least one element stays unless `level` is 1.0.

    Args:
        weight: any shape.
        level: fraction of zeros, [0, 1].

    Returns:
        bool tensor of the weight's shape, True = kept.
    """
    return mask_smallest(weight.detach().abs(), zeros_of(level, weight.numel()))


def groups_above(weight: Tensor, tile: Tile, threshold: float, criterion: str) -> Tensor:
    """Which groups are above a threshold.

    Args:
        weight: any shape.
        tile: of the groups.
        threshold: a group at or below it is off.
        criterion: `Max`, the group's largest absolute value, or `Mean_Abs`, the mean of them.

    Returns:
        bool tensor of shape (groups,), True = above.
    """
    if criterion == "Max":
        return group_norms(weight, tile, math.inf) > threshold
    return group_norms(weight, tile, 1) / group_size(tile) > threshold

"""Pure tensor -> tensor functions: which elements are the least important, and the masks that follow.

Scores and exact selection.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compress.groups import Tile, group_norms, group_size

ThresholdCriteria = Literal["Max", "Mean_Abs"]
BLOCK = 2**16  # elements that are looked at in one go, so that they stay in the processor's cache
PIECE = 2**10  # elements of which a sixteenth, side by side, is in the sample


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
    if _is_plain(scores):
        array = scores.reshape(-1).numpy()
        return torch.from_numpy(_mask_smallest(array, array.copy(), zeros)).reshape(scores.shape)
    threshold = kth_smallest(scores, zeros)
    mask = scores > threshold
    surplus = scores.numel() - int(torch.count_nonzero(mask)) - zeros  # ties at the threshold that stay
    if surplus:
        ties = torch.nonzero(scores.reshape(-1) == threshold).reshape(-1)
        flat = mask.reshape(-1)
        flat[ties[-surplus:]] = True
        mask = flat.reshape(mask.shape)
    return mask


def _is_plain(scores: Tensor) -> bool:
    """Whether numpy sees the elements in their order without a copy."""
    return scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64) and scores.is_contiguous()


def _mask_smallest(scores: np.ndarray, copy: np.ndarray, zeros: int) -> np.ndarray:
    """`mask_smallest` of a flat array, with a copy of it that is left partitioned; 0 < zeros < size."""
    # Selection in linear time: the element at zeros - 1 is the one that sorting would put there.
    copy.partition(zeros - 1)
    threshold = copy[zeros - 1]
    mask = np.greater(scores, threshold)
    surplus = scores.size - np.count_nonzero(mask) - zeros
    if surplus:
        mask[np.flatnonzero(scores == threshold)[-surplus:]] = True
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


def level_masks(weights: Mapping[str, Tensor], levels: Mapping[str, float]) -> dict[str, Tensor]:
    """`level_mask` of many weights: on the CPU with as many threads as torch has, and one buffer for each.

    Args:
        weights: name -> weight, any shape.
        levels: name -> fraction of zeros, [0, 1], of each weight to prune.

    Returns:
        name -> bool tensor of the weight's shape, True = kept, in the order of `levels`.
    """
    plain = [name for name in levels if _is_plain(weights[name]) and zeros_of(levels[name], weights[name].numel()) > 0]
    plain = sorted((name for name in plain if levels[name] < 1.0), key=lambda name: -weights[name].numel())
    workers = min(torch.get_num_threads(), len(plain))
    if workers > 1:  # numpy lets other threads run while it works
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda i: _level_masks(weights, levels, plain[i::workers]), range(workers)))
    else:
        parts = [_level_masks(weights, levels, plain)]
    found = {name: mask for part in parts for name, mask in part.items()}
    return {name: found[name] if name in found else level_mask(weights[name], levels[name]) for name in levels}


def _level_masks(weights: Mapping[str, Tensor], levels: Mapping[str, float], names: list[str]) -> dict[str, Tensor]:
    """The masks of one thread; fresh memory for each weight would cost as much as the work itself."""
    buffers: dict[np.dtype, np.ndarray] = {}
    masks = {}
    for name in names:
        weight = weights[name].detach().reshape(-1).numpy()
        buffer = buffers.setdefault(weight.dtype, np.empty(BLOCK, weight.dtype))
        zeros = zeros_of(levels[name], weight.size)
        mask = _mask_in_bracket(weight, zeros, buffer)
        if mask is None:
            scores = np.abs(weight)
            mask = _mask_smallest(scores, scores.copy(), zeros)
        masks[name] = torch.from_numpy(mask).reshape(weights[name].shape)
    return masks


def _mask_in_bracket(weight: np.ndarray, zeros: int, buffer: np.ndarray) -> np.ndarray | None:
    """`_mask_smallest` of |weight| in one pass over it; None where that is no way: few elements, many that are equal.

    A sample gives two values that the threshold most likely lies between. What is above them stays, what is below goes,
    and only what lies between, about a hundredth, is selected exactly. So the mask is the same as without the sample,
    or there is none.

    Args:
        weight: flat.
        zeros: how many go; 0 < zeros < size.
        buffer: of `BLOCK` elements, of the weight's type.
    """
    if weight.size < BLOCK:
        return None
    whole = weight.size - weight.size % PIECE
    sample = np.abs(weight[:whole].reshape(-1, PIECE)[:, : PIECE // 16]).ravel()
    low, high = _bracket(sample, zeros / weight.size)
    if low <= 0:
        return None
    mask, reached = np.empty(weight.size, bool), np.empty(BLOCK, bool)
    places, values, below = [], [], 0
    for start in range(0, weight.size, BLOCK):
        scores = buffer[: min(BLOCK, weight.size - start)]
        part, between = mask[start : start + scores.size], reached[: scores.size]
        np.abs(weight[start : start + scores.size], out=scores)
        np.greater(scores, high, out=part)
        np.greater_equal(scores, low, out=between)
        below += scores.size - int(np.count_nonzero(between))
        np.bitwise_xor(between, part, out=between)
        found = np.flatnonzero(between)
        places.append(found + start)
        values.append(scores[found])
    inner = np.concatenate(values)
    if not 0 < zeros - below < inner.size:
        return None
    mask[np.concatenate(places)] = _mask_smallest(inner, inner.copy(), zeros - below)
    return mask


def _bracket(sample: np.ndarray, share: float) -> tuple[float, float]:
    """Two values of a sample between which the quantile of all elements lies in all but one of 400 cases.

    The sample is left partitioned.
    """
    middle, width = share * sample.size, 3 * math.sqrt(sample.size * share * (1 - share)) + 2
    first, last = int(middle - width), int(middle + width)
    if first < 0 or last >= sample.size:
        return 0.0, math.inf
    sample.partition(last)
    high = float(sample[last])
    sample[:last].partition(first)  # what is smaller than the last one lies in front of it
    return float(sample[first]), high


def global_masks(scores: Mapping[str, Tensor], level: float) -> dict[str, Tensor]:
    """Prunes the fraction `level` of many weights together: exactly round(level * n) zeros of all n elements.

    The best element of each weight stays unless `level` is 1.0, so that no layer is cut off; where that leaves too few
    to prune, fewer go.

    Args:
        scores: name -> importance of each element, any shapes.
        level: fraction of zeros, [0, 1].

    Returns:
        name -> bool tensor of the scores' shape, True = kept.
    """
    total = sum(score.numel() for score in scores.values())
    zeros = zeros_of(level, total)
    flat = torch.cat([score.detach().reshape(-1).float() for score in scores.values()])
    if level < 1.0:
        zeros = min(zeros, total - len(scores))
        starts = np.cumsum([0] + [score.numel() for score in scores.values()])
        for start, score in zip(starts[:-1], scores.values(), strict=True):
            # Infinite importance: the selection below never takes it.
            flat[int(start) + int(score.argmax())] = math.inf
    parts = mask_smallest(flat, zeros).split([score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def nm_mask(weight: Tensor, n: int, m: int, dim: int) -> Tensor:
    """Keeps the n largest magnitudes of every m neighbours along `dim`; of ties the later one stays.

    Args:
        weight: any shape whose size along `dim` is a multiple of m.
        n: how many stay.
        m: of how many.
        dim: the dimension that a matrix product sums over.

    Returns:
        bool tensor of the weight's shape, True = kept.
    """
    moved = weight.detach().abs().movedim(dim, -1)
    order = moved.reshape(*moved.shape[:-1], moved.shape[-1] // m, m).argsort(dim=-1, stable=True)
    # Stable and ascending: of equal magnitudes the later one comes last, and the last n stay.
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., m - n :], True)
    return mask.reshape(moved.shape).movedim(-1, dim).contiguous()


def groups_above(weight: Tensor, tile: Tile, threshold: float, criterion: ThresholdCriteria) -> Tensor:
    """Which groups are above a threshold.

    Args:
        weight: any shape.
        tile: of the groups.
        threshold: a group at or below it is off.
        criterion: `Max`, the group's largest absolute value, or `Mean_Abs`, the mean of them.

    Returns:
        bool tensor of shape (groups,), True = above.
    """
    return group_magnitudes(weight, tile, criterion) > threshold


def group_magnitudes(weight: Tensor, tile: Tile, criterion: ThresholdCriteria) -> Tensor:
    """What `groups_above` compares: the largest or the mean absolute value of each group, shape (groups,)."""
    if criterion == "Max":
        return group_norms(weight, tile, math.inf)
    return group_norms(weight, tile, 1) / group_size(tile)


def geometric_median_distances(groups: Tensor) -> Tensor:
    """Sum of the Euclidean distances of each row to all rows: shape (rows,).

    Args:
        groups: shape (rows, elements of a row).

    Example: rows [0], [1], [5] give [6, 5, 9]; the middle one is the easiest to replace.
    """
    # By a matrix product, over ten times faster than by differences; that loses half the digits, hence the doubles.
    if groups.device.type != "mps":  # which has none
        groups = groups.double()
    return torch.cdist(groups, groups, compute_mode="use_mm_for_euclid_dist").sum(dim=1).float()

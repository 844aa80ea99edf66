"""Which calibration data are used: samples whose values are finite.

`finite_samples`.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.errors import UserError
from compress.graph.trace import as_arguments

logger = logging.getLogger("compress")


def finite_samples(batches: Sequence[Any]) -> list[Any]:
    """The batches without the samples that hold NaN or infinities, which every average would hold too.

    Raises:
        UserError: no sample is left, or there was none.
    """
    kept: list[Any] = []
    gone = total = 0
    for batch in batches:
        arguments = as_arguments(batch)
        good = _good(arguments)
        if good is None or (len(good) and bool(good.all())):
            kept.append(batch)
            total += 0 if good is None else len(good)
            continue
        gone, total = gone + int((~good).sum()), total + len(good)
        if bool(good.any()):
            kept.append(tuple(each[good] if _runs_along(each, good) else each for each in arguments))
    if gone:
        logger.warning("calibration data: %d of %d samples are not finite and were left out", gone, total)
    if gone and not kept:
        raise UserError(f"calibration data: none of {total} samples is finite (NaN or infinite values in each)")
    if batches and not kept:
        raise UserError(f"calibration data: the batches given ({len(batches)}) hold no sample")
    if why := _says_nothing(kept):
        logger.warning(
            "calibration data: %s; they say nothing of what the network reads, and what is computed from them will not "
            "fit it: give samples of its training data", why,
        )  # fmt: skip
    return kept


def _says_nothing(batches: Sequence[Any]) -> str:
    """Why not, if so: all samples are equal, or each of them is one value throughout; by the first argument."""
    firsts = [arguments[0] for arguments in map(as_arguments, batches) if arguments]
    if not all(isinstance(each, Tensor) and each.dim() > 1 for each in firsts) or not firsts:
        return ""
    samples, one = sum(map(len, firsts)), firsts[0][:1]
    if samples > 1 and all(each.shape[1:] == one.shape[1:] and bool((each == one).all()) for each in firsts):
        return f"all {samples} samples are equal"
    rows = [each.flatten(1) for each in firsts]
    if all(each.shape[1] > 1 and bool((each == each[:, :1]).all()) for each in rows):
        return f"each of {samples} samples is one value throughout"
    return ""


def _good(arguments: Sequence[Any]) -> Tensor | None:
    """Sample -> whether it is finite, by the first argument; None where that is not a tensor of real numbers."""
    first = arguments[0] if arguments else None
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.dim():
        return None
    finite = torch.isfinite(first)
    return finite.flatten(1).all(1) if first.dim() > 1 else finite


def _runs_along(argument: Any, good: Tensor) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == len(good)

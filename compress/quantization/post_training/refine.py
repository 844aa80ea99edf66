"""The second stage of the search for activations' ranges: what is best for the network's output.

`refine_ranges`. Paper: Liu et al. 2024, 2DQuant, arXiv 2406.06649 (ranges by the distribution of each tensor first,
then by what the quantized network gives). There the second stage trains the ranges; here each end is tried at a few
multiples, one activation after the other, so that nothing has to be differentiable and no learning rate be chosen.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.graph.calls import run_on
from compress.quantization.range_linear import RangeActivation

logger = logging.getLogger("compress")
FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2)  # of both ends, then of each
PASSES = 2
GAIN = 1e-4  # share of the error that a change has to take


@torch.no_grad()
def refine_ranges(
    quantized: nn.Module, reference: nn.Module, pieces: Mapping[str, RangeActivation], batches: Sequence[Any]
) -> tuple[float, float]:
    """Moves the ranges, in place, towards the least squared error of the output on the calibration data.

    Args:
        quantized: in eval mode, with ranges.
        reference: the float network.
        pieces: name -> the activation's fake quantizer; one that was never calibrated is left out.
        batches: calibration data; gone through for each multiple of each range.

    Returns:
        the error before and after, relative to the output's own power.
    """
    wanted = [_tensors(run_on(reference, batch)) for batch in batches]
    power = sum(float(each.double().square().sum()) for batch in wanted for each in batch) or 1.0

    def error() -> float:
        given = [_tensors(run_on(quantized, batch)) for batch in batches]
        pairs = ((a, b) for x, y in zip(given, wanted, strict=True) for a, b in zip(x, y, strict=True))
        return sum(float((a - b).double().square().sum()) for a, b in pairs) / power

    before = best = error()
    usable = {name: piece for name, piece in pieces.items() if bool(piece.ranges[2] > 0)}
    for number in range(PASSES):
        for i, (name, piece) in enumerate(usable.items(), 1):
            best = _moved(piece, best, error)
            logger.info(
                "ranges, pass %d of %d: %d of %d (%s), error of the output %.3g of its power",
                number + 1, PASSES, i, len(usable), name, best,
            )  # fmt: skip
    return before, best


def _moved(piece: RangeActivation, best: float, error: Any) -> float:
    """Sets one range to the best of its multiples; returns the error that is left."""
    chosen = piece.ranges.clone()
    for ends in ((0, 1), (0,), (1,)):
        if not bool(chosen[list(ends)].any()):
            continue  # an end at 0 stays there
        start = chosen.clone()
        for factor in FACTORS:
            tried = start.clone()
            tried[list(ends)] *= factor
            piece.ranges.copy_(tried)
            found = error()
            if found < best * (1 - GAIN):
                best, chosen = found, tried
    piece.ranges.copy_(chosen)
    return best


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]

"""What is known of an activation after calibration, and how it is gathered.

`TensorStatistics`, `observe`. Two passes over the data: the first finds ends and means, the second counts a histogram
over the whole range, so that nothing is guessed of values that come later.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.graph.calls import run_on
from compress.quantization.post_training.histogram import Array

logger = logging.getLogger("compress")
CELLS = 2048  # of the histogram of one sign


@dataclass
class TensorStatistics:
    """Of one activation over all calibration data.

    Attributes:
        min: smallest value.
        max: largest value.
        avg_min: mean over samples of each one's smallest value.
        avg_max: the same of the largest.
        moving_min: moving average of the batches' smallest values, the first batch's at the start.
        moving_max: the same of the largest.
        mean: of all values.
        std: of all values.
        b: mean absolute distance from the mean.
        shape: of the last batch.
        histogram: counts of 2 * CELLS equal cells from -peak to peak, peak = max(|min|, |max|); empty if unknown.
        missing: names of the numbers that a file of statistics did not have.
    """

    min: float = math.inf
    max: float = -math.inf
    avg_min: float = 0.0
    avg_max: float = 0.0
    moving_min: float = 0.0
    moving_max: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    b: float = 0.0
    shape: tuple[int, ...] = ()
    histogram: Array = field(default_factory=lambda: np.zeros(0))
    missing: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """The largest absolute value."""
        return max(abs(self.min), abs(self.max))

    def absolute(self) -> Array:
        """The histogram of |x|, CELLS equal cells from 0 to peak."""
        half = len(self.histogram) // 2
        return self.histogram[half:] + self.histogram[:half][::-1]


class _Ends:
    """First pass over one tensor."""

    def __init__(self, decay: float) -> None:
        self.found, self.decay = TensorStatistics(), decay
        self.samples = self.values = self.batches = self.left_out = 0
        self.sum = self.squares = 0.0

    def see(self, x: Tensor) -> None:
        rows = _finite_rows(x)
        self.left_out += (len(x) if x.dim() > 1 else 1) - len(rows)
        if not rows.numel():
            return
        low, high = rows.amin(1).double(), rows.amax(1).double()
        least, most = float(low.min()), float(high.max())
        its = self.found
        its.min, its.max, its.shape = min(its.min, least), max(its.max, most), tuple(x.shape)
        # The first batch counts in full, so that the average does not start from 0.
        keep = self.decay if self.batches else 0.0
        its.moving_min = keep * its.moving_min + (1 - keep) * least
        its.moving_max = keep * its.moving_max + (1 - keep) * most
        its.avg_min, its.avg_max = its.avg_min + float(low.sum()), its.avg_max + float(high.sum())
        self.samples, self.values, self.batches = self.samples + len(rows), self.values + rows.numel(), self.batches + 1
        self.sum += float(rows.sum(dtype=torch.float64))
        self.squares += float(rows.double().square().sum())

    def done(self) -> TensorStatistics:
        its = self.found
        its.avg_min, its.avg_max = its.avg_min / self.samples, its.avg_max / self.samples
        its.mean = self.sum / self.values
        its.std = math.sqrt(max(self.squares / self.values - its.mean**2, 0.0))
        its.histogram = np.zeros(2 * CELLS)
        return its


class _Counts:
    """Second pass over one tensor."""

    def __init__(self, found: TensorStatistics) -> None:
        self.found, self.values = found, 0

    def see(self, x: Tensor) -> None:
        its, x = self.found, _finite_rows(x).float().cpu()
        # histc takes two equal ends as a request to find them itself.
        peak = its.peak or 1.0
        its.histogram += torch.histc(x, 2 * CELLS, -peak, peak).double().numpy()
        its.b += float((x - its.mean).abs().sum(dtype=torch.float64))
        self.values += x.numel()

    def done(self) -> TensorStatistics:
        self.found.b /= self.values
        return self.found


def _finite_rows(x: Tensor) -> Tensor:
    """(samples, values): the samples without NaN and infinities; one with a few has finite values as wrong."""
    rows = x.detach().flatten(1) if x.dim() > 1 else x.detach().reshape(1, -1)
    return rows[torch.isfinite(rows).all(1)]


@torch.no_grad()
def observe(
    model: nn.Module, batches: Sequence[Any], watched: Mapping[str, nn.Module], decay: float
) -> dict[str, TensorStatistics]:
    """Statistics of what modules return over the calibration data; a module that is not called is left out.

    Args:
        model: run as it is, in its own mode.
        batches: a tensor each, or the tuple of positional arguments.
        watched: name -> module.
        decay: of the moving averages, [0, 1).

    Raises:
        UserError: a module's values are not finite for any sample.
    """
    ends: dict[str, Any] = {name: _Ends(decay) for name in watched}
    _run(model, batches, watched, ends, "ranges")
    _tell_of_left_out(ends)
    seen = {name: each.done() for name, each in ends.items() if each.batches}
    counts: dict[str, Any] = {name: _Counts(each) for name, each in seen.items()}
    _run(model, batches, {name: watched[name] for name in seen}, counts, "histograms")
    return {name: each.done() for name, each in counts.items()}


def _tell_of_left_out(ends: Mapping[str, _Ends]) -> None:
    left_out = {name.removesuffix("_quantizer"): each for name, each in ends.items() if each.left_out}
    without = [name for name, each in left_out.items() if not each.batches]
    if without:
        raise UserError(
            f"calibration: {without[0]} is not finite (NaN or infinite) for any of {left_out[without[0]].left_out} "
            "samples, so it has no range; look at the calibration data, or at the weights in front of it"
        )
    if left_out:
        name, most = max(left_out.items(), key=lambda entry: entry[1].left_out)
        logger.warning(
            "calibration: values were not finite (NaN or infinite) in %d activations; such samples were left out of "
            "their ranges, at most %d of %d (%s)",
            len(left_out), most.left_out, most.left_out + most.samples, name,
        )  # fmt: skip


def _run(
    model: nn.Module, batches: Sequence[Any], watched: Mapping[str, nn.Module], takers: Mapping[str, Any], what: str
) -> None:
    def hook(taker: Any) -> Any:
        return lambda module, inputs, output: taker.see(output)

    handles = [module.register_forward_hook(hook(takers[name])) for name, module in watched.items()]
    try:
        for i, batch in enumerate(batches):
            run_on(model, batch)
            if 4 * (i + 1) // len(batches) > 4 * i // len(batches):  # a line a quarter
                logger.info("calibrating, %s: batch %d of %d", what, i + 1, len(batches))
    finally:
        for handle in handles:
            handle.remove()

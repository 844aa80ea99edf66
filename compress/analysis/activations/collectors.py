"""Statistics of a layer's outputs, one class each, gathered over any number of batches.

The collectors. To add a statistic: one class here, its line in `COLLECTORS`. A collector sees every output of one
layer and keeps sums, never the outputs; the numbers are those of all outputs together, whatever the batches' sizes.
What several of them need of one output (`Output.range`, `.zeros`, `.sum`) is computed once.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

PART = 2**15  # values that are computed with in float64 at once: they stay in the processor's cache
COUNTED = 2**22  # values that are counted at once: histc counts in float32, which ends at 2^24


class Output:
    """One output of a layer.

    Attributes:
        values: of shape (channels, values of the channel), floating point.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value; NaN where there is one."""
        least, most = torch.aminmax(self.values)
        return float(least), float(most)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(map(math.isfinite, self.range))

    @cached_property
    def zeros(self) -> Tensor:
        """How many values of each channel are exactly zero, on the CPU."""
        return (self.values == 0).sum(dim=1, dtype=torch.int32).cpu().to(torch.int64)

    @cached_property
    def sum(self) -> float:
        """In float64."""
        return float(self.values.sum(dtype=torch.float64))


class Collector(ABC):
    """One statistic of one layer.

    Attributes:
        name: of the column or sheet.
    """

    name: ClassVar[str]

    @abstractmethod
    def add(self, output: Output) -> None:
        """Takes one output."""

    @abstractmethod
    def value(self) -> Any:
        """The statistic so far: a number, or a list of one number a channel, or a `Counts`."""


class SparsityCollector(Collector):
    """Fraction of values that are exactly zero, [0, 1]."""

    name = "sparsity"

    def __init__(self) -> None:
        self.zeros = self.count = 0

    def add(self, output: Output) -> None:
        """Counts the zeros."""
        self.zeros += int(output.zeros.sum())
        self.count += output.values.numel()

    def value(self) -> float:
        """Zeros over all."""
        return self.zeros / self.count if self.count else math.nan


class MeanCollector(Collector):
    """Mean."""

    name = "mean"

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def add(self, output: Output) -> None:
        """Adds up."""
        self.sum += output.sum
        self.count += output.values.numel()

    def value(self) -> float:
        """The sum over the count."""
        return self.sum / self.count if self.count else math.nan


class MinCollector(Collector):
    """Smallest value."""

    name = "min"

    def __init__(self) -> None:
        self.least = math.inf

    def add(self, output: Output) -> None:
        """Keeps the smaller one."""
        self.least = min(self.least, output.range[0])

    def value(self) -> float:
        """The smallest."""
        return self.least if self.least < math.inf else math.nan


class MaxCollector(Collector):
    """Largest value."""

    name = "max"

    def __init__(self) -> None:
        self.most = -math.inf

    def add(self, output: Output) -> None:
        """Keeps the larger one."""
        self.most = max(self.most, output.range[1])

    def value(self) -> float:
        """The largest."""
        return self.most if self.most > -math.inf else math.nan


class StdCollector(Collector):
    """Population standard deviation.

    Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample variances, eq. 1.5b: count, mean
    and sum of squared deviations of two parts give those of both.
    """

    name = "std"

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, output: Output) -> None:
        """Joins the output's deviations to those so far."""
        count = output.values.numel()
        mean, both = output.sum / count, self.count + count
        apart = mean - self.mean
        self.squares += _squares(output.values, mean) + apart**2 * self.count * count / both
        self.mean += apart * count / both
        self.count = both

    def value(self) -> float:
        """The root of the mean squared deviation."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan


class ApozCollector(Collector):
    """Average percentage of zeros (APoZ) of each channel, as a fraction in [0, 1].

    Hu et al. 2016, Network Trimming, arXiv 1607.03250, eq. 1; meant for the outputs of ReLU.
    """

    name = "apoz"

    def __init__(self) -> None:
        self.zeros: Tensor | None = None
        self.count = 0

    def add(self, output: Output) -> None:
        """Counts each channel's zeros; a layer whose number of channels varies (a sequence) has no APoZ."""
        zeros = output.zeros
        if self.zeros is not None and self.zeros.shape != zeros.shape:
            zeros = torch.zeros(0, dtype=torch.int64)
        self.zeros = zeros if self.zeros is None or not len(zeros) else self.zeros + zeros
        self.count += output.values.shape[1]

    def value(self) -> list[float]:
        """One number a channel."""
        return [] if self.zeros is None else (self.zeros.double() / max(self.count, 1)).tolist()


class Counts:
    """Counts of values in bins of equal width.

    Attributes:
        counts: of each bin.
        edges: of the bins, one more than counts.
    """

    def __init__(self, counts: list[int], edges: list[float]) -> None:
        self.counts, self.edges = counts, edges


class HistogramCollector(Collector):
    """Histogram of the values that are not zero, in 64 bins about zero.

    The range is a power of two and doubles when a larger value comes; two bins then become one, so that no count is
    ever estimated.
    """

    name = "histogram"
    bins: ClassVar[int] = 64

    def __init__(self) -> None:
        self.counts = torch.zeros(self.bins, dtype=torch.int64)
        self.edge = 0.0

    def add(self, output: Output) -> None:
        """Counts the output's values; infinite ones and NaN are left out."""
        if not output.is_finite:
            output = Output(output.values[torch.isfinite(output.values)][None])
        values = output.values.float()
        largest = float(torch.tensor(output.range, dtype=torch.float32).abs().max()) if values.numel() else 0.0
        if not largest:
            return
        needed = 2.0 ** math.ceil(math.log2(largest))
        if self.edge == 0.0:
            self.edge = needed
        while self.edge < needed:
            pairs = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.nn.functional.pad(pairs, (self.bins // 4, self.bins // 4))
            self.edge *= 2
        for part in values.reshape(-1).split(COUNTED):
            self.counts += torch.histc(part, self.bins, -self.edge, self.edge).cpu().to(torch.int64)
        self.counts[self.bins // 2] -= output.zeros.sum()  # the bin that begins at zero

    def value(self) -> Counts:
        """Counts and edges, without the empty bins at both ends."""
        filled = torch.nonzero(self.counts).flatten().tolist()
        first, last = (filled[0], filled[-1]) if filled else (0, -1)
        width = 2 * self.edge / self.bins
        edges = [-self.edge + i * width for i in range(first, last + 2)]
        return Counts(self.counts[first : last + 1].tolist(), edges)


def _squares(values: Tensor, mean: float) -> float:
    """Sum of squared deviations from a mean, in float64."""
    found = 0.0
    for part in values.reshape(-1).split(PART):
        apart = part.double() - mean
        found += float(torch.dot(apart, apart))
    return found


COLLECTORS: tuple[type[Collector], ...] = (
    SparsityCollector,
    MeanCollector,
    MinCollector,
    MaxCollector,
    StdCollector,
    ApozCollector,
    HistogramCollector,
)

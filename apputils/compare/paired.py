"""Whether one network is better than another, or the data and the seeds are too few to say.

`paired_difference`, of scores image by image and seed by seed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.98  # a table of two metrics then claims what is not there in fewer than one of twenty cases
NO_DIFFERENCE = "no difference shown"
Scores = NDArray[np.float64]  # (seeds, images)


@dataclass(frozen=True)
class Difference:
    """The second network's score less the first one's, and the interval that it is in.

    Attributes:
        mean: over images and seeds, in the metric's unit.
        low: end of the 98 % confidence interval.
        high: the other end; infinite both where one image of one seed is all there is.
        seeds: of each side, the smaller number.
        images: that both were measured on.
        paired: whether seeds were paired, and not only images.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int
    paired: bool

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.low <= 0 <= self.high

    def facts(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.__dict__, "shown": self.shown}


def paired_difference(first: Scores, second: Scores, seeds_pair: bool = True) -> Difference:
    """The mean difference with its 98 % confidence interval.

    Seeds and images are both taken for samples of those there could be: the interval's variance is that of the mean
    over seeds plus that of the mean over images, each times the square of its own t quantile (Banerjee 1961; Graybill
    and Wang 1980), so that it errs in at most 2 % of cases whatever the two variances are. Satterthwaite's degrees of
    freedom become those of the images where two seeds agree by chance: with two seeds it erred in up to 8 %. The part
    of the variance that belongs to both is counted twice, so the interval is a little too wide rather than too narrow.
    With one seed on a side only the images speak, and nothing is said of other seeds.

    Args:
        first: score of each image under each seed, (seeds, images).
        second: of the other network, of the same images.
        seeds_pair: whether row i of both has the same seed.

    Raises:
        ValueError: they have not the same images.
    """
    if first.shape[1:] != second.shape[1:] or first.ndim != 2:
        raise ValueError(f"scores of {first.shape} and {second.shape} are not of the same images")
    paired = seeds_pair and len(first) == len(second)
    by_image = second.mean(0) - first.mean(0)
    parts = [_part(by_image)]
    if paired:
        parts.append(_part(second.mean(1) - first.mean(1)))
    elif min(len(first), len(second)) > 1:
        parts += [_part(first.mean(1)), _part(second.mean(1))]
    mean, half = float(by_image.mean()), _half_width(parts)
    return Difference(mean, mean - half, mean + half, min(len(first), len(second)), len(by_image), paired)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean of some seeds' scores, their standard deviation (n - 1), and the ends of the mean's 98 % interval."""
    mean, half = float(values.mean()), _half_width([_part(values)])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return mean, deviation, mean - half, mean + half


def _part(values: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of a mean, and its degrees of freedom."""
    freedom = len(values) - 1
    return (float(values.var(ddof=1)) / len(values), freedom) if freedom else (0.0, 0)


def _half_width(parts: list[tuple[float, int]]) -> float:
    """Half of the interval of a sum of independent parts, each (variance, degrees of freedom); 0 degrees: unknown."""
    known = [(variance, freedom) for variance, freedom in parts if freedom > 0]
    if not known:
        return math.inf
    from scipy.special import stdtrit  # a quarter of a second to import

    squares = (variance * float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) ** 2 for variance, freedom in known)
    return math.sqrt(sum(squares))

"""Whether one network is better than another, or the data and the seeds are too few to say.

`paired_difference`, of scores image by image and seed by seed.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.98  # a table of two metrics then claims what is not there in fewer than one of twenty cases
NO_DIFFERENCE = "no difference shown"
Scores = NDArray[np.float64]  # (seeds, images)


@dataclass(frozen=True)
class Part:
    """One source of chance in a mean.

    Attributes:
        of: "images" or "seeds".
        standard_error: of the mean, from this source alone, in the metric's unit.
        degrees: of freedom, one less than the number of images or seeds.
    """

    of: str
    standard_error: float
    degrees: int


@dataclass(frozen=True)
class OverSeeds:
    """What holds for other seeds on these very images.

    Attributes:
        low: end of the 98 % confidence interval of the mean difference.
        high: the other end.
        p: of the two-sided paired t test; None where seeds are not paired.
        by_seed: difference of each pair of seeds, in the order of the first network's; None where they are not paired.
    """

    low: float
    high: float
    p: float | None
    by_seed: tuple[float, ...] | None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0  # not `not low <= 0 <= high`, which not-a-number fulfils


@dataclass(frozen=True)
class Difference:
    """The second network's score less the first one's, and the interval that it is in.

    Attributes:
        mean: over images and seeds, in the metric's unit.
        low: end of the 98 % confidence interval, for other images and other seeds.
        high: the other end; infinite both where there is one image only, which says nothing of others.
        seeds: of each side, the smaller number.
        images: that both were measured on and that count.
        left_out: images that do not count, as a score is not finite (the PSNR of an exact image).
        paired: whether seeds were paired, and not only images.
        parts: what the interval is made of; half its width is the square root of the sum of the squares of each
            standard error times its t quantile.
        over_seeds: the same for other seeds on these images; None with one seed on a side.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int
    paired: bool
    parts: tuple[Part, ...] = ()
    over_seeds: OverSeeds | None = None
    left_out: int = 0

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0  # not `not low <= 0 <= high`, which not-a-number fulfils

    def facts(self) -> dict[str, Any]:
        """Plain data."""
        over_seeds = self.over_seeds and {**asdict(self.over_seeds), "shown": self.over_seeds.shown}
        return {**asdict(self), "shown": self.shown, "over_seeds": over_seeds}


def paired_difference(first: Scores, second: Scores, seeds_pair: bool = True) -> Difference:
    """The mean difference with its 98 % confidence interval.

    Seeds and images are both taken for samples of those there could be: the interval's variance is that of the mean
    over seeds plus that of the mean over images, each times the square of its own t quantile (Banerjee 1961; Graybill
    and Wang 1980), so that it errs in at most 2 % of cases whatever the two variances are. Satterthwaite's degrees of
    freedom become those of the images where two seeds agree by chance: with two seeds it erred in up to 8 %. The part
    of the variance that belongs to both is counted twice, so the interval is a little too wide rather than too narrow.
    With one seed on a side only the images speak, and nothing is said of other seeds. With several, `over_seeds` has
    what holds for other seeds if the images stay these: the seeds' part alone, which is narrower.

    Args:
        first: score of each image under each seed, (seeds, images).
        second: of the other network, of the same images. Images with a score that is not finite are left out.
        seeds_pair: whether row i of both has the same seed.

    Raises:
        ValueError: they have not the same images.
    """
    if first.shape[1:] != second.shape[1:] or first.ndim != 2:
        raise ValueError(f"scores of {first.shape} and {second.shape} are not of the same images")
    finite = np.isfinite(first).all(0) & np.isfinite(second).all(0)
    left_out = int((~finite).sum())
    if not finite.any():
        return Difference(math.nan, -math.inf, math.inf, min(len(first), len(second)), 0, False, left_out=left_out)
    first, second = first[:, finite], second[:, finite]
    paired = seeds_pair and len(first) == len(second)
    by_image, by_seed = second.mean(0) - first.mean(0), second.mean(1) - first.mean(1) if paired else None
    seeds: list[Part] = []
    if min(len(first), len(second)) > 1:
        samples = [by_seed] if by_seed is not None else [first.mean(1), second.mean(1)]
        seeds = [_part("seeds", each) for each in samples]
    parts = [_part("images", by_image), *seeds]
    mean = float(by_image.mean())
    over_seeds = _over_seeds(mean, seeds, by_seed) if seeds else None
    count = min(len(first), len(second))
    ends = _around(mean, parts)
    return Difference(mean, *ends, count, len(by_image), paired, tuple(parts), over_seeds, left_out)


def _over_seeds(mean: float, parts: list[Part], by_seed: NDArray[np.float64] | None) -> OverSeeds:
    if by_seed is None:
        return OverSeeds(*_around(mean, parts), None, None)
    from scipy.special import stdtr  # a quarter of a second to import

    error = parts[0].standard_error
    p = 2 * float(stdtr(parts[0].degrees, -abs(mean) / error)) if error else float(mean == 0)
    return OverSeeds(*_around(mean, parts), p, tuple(float(each) for each in by_seed))


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean of some seeds' scores, their standard deviation (n - 1), and the ends of the mean's 98 % interval."""
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return mean, deviation, *_around(mean, [_part("seeds", values)])


def _part(of: str, values: NDArray[np.float64]) -> Part:
    degrees = len(values) - 1
    return Part(of, float(values.std(ddof=1)) / math.sqrt(len(values)) if degrees else 0.0, degrees)


def _around(mean: float, parts: list[Part]) -> tuple[float, float]:
    """The interval of a sum of independent parts; infinite where one has no degrees of freedom."""
    half = _half_width(parts)
    return mean - half, mean + half


def _half_width(parts: list[Part]) -> float:
    if not all(part.degrees for part in parts):
        return math.inf
    from scipy.special import stdtrit  # a quarter of a second to import

    return math.hypot(*(part.standard_error * float(stdtrit(part.degrees, (1 + CONFIDENCE) / 2)) for part in parts))

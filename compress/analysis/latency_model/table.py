"""Measured times of one kind of layer over widths. Pure.

`Table`: both widths are swept with the other one full, and t(in, out) = t(in, full) t(full, out) / t(full, full): each
width has its own factor, whatever its shape. The factors of vector units are stairs (20 channels may cost what 32 do),
and unaligned widths may cost more than the next aligned one, so nothing smooth is laid through them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGNED = 16  # widths are alike whose greatest common divisor with it is the same
MOST_WIDTHS = 24  # of a sweep, about

WELL_ALIGNED = 4

Curve = tuple[tuple[int, float], ...]  # width, milliseconds; increasing widths


def _loss(curve: Curve, divisor: int) -> float:
    """How much longer badly aligned widths take than the next well aligned one, which costs no more on stairs; >= 1."""
    good = [each for each in curve if math.gcd(each[0], ALIGNED) >= WELL_ALIGNED]
    bad = [each for each in curve if math.gcd(each[0], ALIGNED) == divisor and good and each[0] >= good[0][0]]
    if not bad:
        return 1.0
    wider = [min((g for g in good if g[0] > width), default=good[-1])[1] for width, _ in bad]
    return max(1.0, float(np.median([time / e for (_, time), e in zip(bad, wider, strict=True)])))


def widths_to_measure(full: int, most: int = MOST_WIDTHS) -> list[int]:
    """Widths of a sweep up to `full`: all of a narrow layer; of a wide one some of each alignment.

    Example: widths_to_measure(6) is [1, 2, 3, 4, 5, 6].
    """
    if full <= most:
        return list(range(1, full + 1))
    found = {1, 2, full}
    for divisor, share in ((16, 3), (8, 6), (4, 6), (1, 3)):
        for k in range(1, most // share + 1):
            # A third, a sixth, a sixth and a third of the widths, evenly spread.
            width = round(full * k / (most // share + 1) / divisor) * divisor + (divisor == 1)
            found.add(min(full, max(1, width)))
    return sorted(found)


def value_at(curve: Curve, width: int) -> float:
    """Time at a width: measured, or between the neighbours of the same alignment.

    Below the first of them the curve's first width is the neighbour; beyond the last one it has that one's time.
    """
    known = dict(curve)
    if width in known:
        return known[width]
    alike = [each for each in curve if math.gcd(each[0], ALIGNED) == math.gcd(width, ALIGNED)]
    points = alike if len(alike) > 1 else list(curve)  # a lone one says nothing of how time grows
    points = points if width > points[0][0] else [curve[0], *points]
    return float(np.interp(width, [w for w, _ in points], [t for _, t in points]))


@dataclass(frozen=True)
class Table:
    """The times of one kind of layer in one precision.

    Attributes:
        over_in: time over the input's width, at the full output width.
        over_out: time over the output's width, at the full input width; of a depthwise layer the only curve.
        full: the two full widths.
        error: median relative error of the product rule, at widths where both are smaller than full.
    """

    over_in: Curve
    over_out: Curve
    full: tuple[int, int]
    error: float = 0.0

    def time(self, channels_in: int, channels_out: int) -> float:
        """Milliseconds at these widths; 0 without channels."""
        if not channels_in or not channels_out:
            return 0.0
        out = value_at(self.over_out, channels_out)
        if not self.over_in:
            return out
        return value_at(self.over_in, channels_in) * out / self._at_full(channels_in, channels_out)

    def _at_full(self, channels_in: int, channels_out: int) -> float:
        """Time at both full widths; where both widths are unaligned, what it would be without alignment: the slower
        kernel that each of them asks for is taken once.
        """
        worse = max(math.gcd(each, ALIGNED) for each in (channels_in, channels_out))
        loss = [_loss(curve, worse) for curve in (self.over_in, self.over_out)] if worse < WELL_ALIGNED else [1.0]
        return self.over_out[-1][1] * math.prod(loss) ** (1 / len(loss))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "over_in": [list(each) for each in self.over_in],
            "over_out": [list(each) for each in self.over_out],
            "full": list(self.full),
            "error": self.error,
        }

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> "Table":
        """The table of `to_dict`."""
        curves = [tuple((int(w), float(t)) for w, t in data[name]) for name in ("over_in", "over_out")]
        return cls(curves[0], curves[1], (int(data["full"][0]), int(data["full"][1])), float(data["error"]))


def table_of(samples: Mapping[tuple[int, int], float], full: tuple[int, int], depthwise: bool = False) -> Table:
    """The table of measured times; samples where both widths are smaller than full judge it.

    Args:
        samples: (width in, width out) -> milliseconds; has both sweeps.
        full: the widths that the other one is swept at.
        depthwise: input and output are the same channels.
    """
    over_out = tuple(sorted((out, t) for (width, out), t in samples.items() if depthwise or width == full[0]))
    if depthwise:
        return Table((), over_out, full)
    over_in = tuple(sorted((width, t) for (width, out), t in samples.items() if out == full[1]))
    table = Table(over_in, over_out, full)
    errors = [abs(table.time(a, b) / t - 1) for (a, b), t in samples.items() if a < full[0] and b < full[1]]
    return Table(over_in, over_out, full, float(np.median(errors)) if errors else 0.0)


def useful_widths(times: Sequence[float], share: float = 0.25) -> list[int]:
    """The widths w = 1..len(times) that are not worth widening: the right edges of stairs.

    A width is left out where a wider one, at most 32 more, costs less than `share` of what so many channels cost on
    average.

    Args:
        times: of the widths 1, 2, ...; the last one is the full width.
        share: of the average slope.

    Example: with times 2, 2, 6, 6 it is [2, 4].
    """
    slope = max(times[-1] - times[0], 0.0) / max(len(times) - 1, 1)
    found = []
    for place, time in enumerate(times):
        wider = times[place + 1 : place + 33]
        if not any(later - time < share * slope * more for more, later in enumerate(wider, 1)):
            found.append(place + 1)
    return found


def step_of(widths: Sequence[int], full: int) -> int:
    """The largest power of two that divides at least three quarters of the useful widths, the full one left out.

    Example: step_of([16, 32, 48], 48) is 16.
    """
    inner = [each for each in widths if each != full] or [full]
    fits = [step for step in (64, 32, 16, 8, 4, 2) if sum(each % step == 0 for each in inner) >= 0.75 * len(inner)]
    return next(iter(fits), 1)


def nonnegative(rows: np.ndarray, values: np.ndarray) -> list[float]:
    """Least squares with coefficients >= 0, by trying every set of them; for a few only."""
    count = rows.shape[1]
    # Columns of one size, or milliseconds and counts of elements would make the system ill-conditioned.
    scale = np.abs(rows).max(0) + 1e-300
    best: tuple[list[float], float] = ([0.0] * count, float("inf"))
    # Active sets: the best non-negative solution is the unconstrained one over some subset, the others being 0.
    for mask in range(1, 1 << count):
        chosen = [place for place in range(count) if mask >> place & 1]
        solution = np.linalg.lstsq(rows[:, chosen] / scale[chosen], values, rcond=None)[0]
        error = float(np.sum((rows[:, chosen] / scale[chosen] @ solution - values) ** 2))
        if (solution >= 0).all() and error < best[1] * (1 - 1e-9):
            full = np.zeros(count)
            full[chosen] = solution / scale[chosen]
            best = full.tolist(), error
    return best[0]

"""Numbers to be read: round ticks of an axis, their labels, a number in few digits."""

import itertools
import math
from collections.abc import Sequence


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.13, 0.92)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    low, high = span(low, high)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def epoch_ticks(low: float, high: float, wanted: int = 8) -> list[float]:
    """Ticks at whole numbers alone: there is no epoch 0.5."""
    return [mark for mark in ticks(low, high, min(wanted, max(1, math.ceil(high - low)))) if mark == int(mark)]


def tick_labels(marks: Sequence[float]) -> list[str]:
    """Ticks in few digits, or in as many as tell them apart.

    >>> tick_labels([33.655, 33.66, 33.665])
    ['33.655', '33.660', '33.665']
    """
    short = [number(mark) for mark in marks]
    if len(set(short)) == len(short):
        return short
    step = min(after - before for before, after in itertools.pairwise(marks))
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return [f"{mark:,.{digits}f}" for mark in marks]


def number(value: float) -> str:
    """A number in few digits: `12.3 G`, `0.0461`, `3`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:.4g}"


def span(low: float, high: float) -> tuple[float, float]:
    """The range itself, or one about a lone number, which for zero is [0, 1]."""
    if low == high == 0.0:
        return 0.0, 1.0
    return (low, high) if high > low else (low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2)

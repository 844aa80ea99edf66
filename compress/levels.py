"""How much by now: the fraction that an algorithm is asked for at an epoch.

Here: level objects that ranked pruners compose in. Not here: which weights go. Pure functions of the
epoch and the policy's window, so that a plan can be drawn without training.
"""

from dataclasses import dataclass
from typing import Protocol

from compress.window import EpochWindow


class Level(Protocol):
    """A fraction in [0, 1] as a function of time."""

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The fraction asked for at `epoch` by a policy with that window."""
        ...


@dataclass(frozen=True)
class ConstantLevel:
    """The same fraction whenever the policy fires.

    Attributes:
        sparsity: fraction of zeros, [0, 1].
    """

    sparsity: float

    def at(self, epoch: int, window: EpochWindow) -> float:
        """`sparsity`."""
        return self.sparsity


@dataclass(frozen=True)
class AgpLevel:
    """Automated gradual pruning: fast at first, slow at the end (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1).

        s = s_f + (s_i - s_f) * (1 - (t - t_0) / (n dt))^3

    with t_0 the first firing epoch and n dt the distance to the last one, so that the last firing epoch
    reaches `final_sparsity` exactly, whatever the frequency. A window with one firing epoch goes straight to it.

    Attributes:
        initial_sparsity: fraction of zeros at the first firing epoch, [0, 1).
        final_sparsity: fraction of zeros at the last one, (0, 1].
    """

    initial_sparsity: float
    final_sparsity: float

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The cubic level at `epoch`."""
        left = (1.0 - window.progress(epoch)) ** 3
        # Written as a weighted mean, so that both ends come out exactly and not as 0.04999...
        return self.final_sparsity * (1.0 - left) + self.initial_sparsity * left

"""When a policy acts: the epochs of its window.

`EpochWindow`. Used by policies, levels and the schedule's checks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compress.errors import shown

MAX_EPOCHS = 200_000  # a plan has a row for each epoch; Distiller's longest schedule ends here


@dataclass(frozen=True)
class EpochWindow:
    """The epochs in which a policy fires.

    Attributes:
        epochs: the firing epochs, ascending, counted from 0; never empty.
        ending_epoch: the first epoch after the window (exclusive).
        frequency: the distance of two firing epochs; 1 for a list of epochs.
    """

    epochs: Sequence[int]
    ending_epoch: int
    frequency: int = 1

    def __post_init__(self) -> None:
        """Refuses what is no window.

        Raises:
            ValueError: no epochs, epochs that do not ascend from 0 or later, or an end that is not behind them.
        """
        ascending = isinstance(self.epochs, range) or list(self.epochs) == sorted(set(self.epochs))
        if not self.epochs or not ascending or self.epochs[0] < 0 or self.frequency < 1:
            raise ValueError(f"epochs {shown(list(self.epochs))} must be some, ascending, 0 or later, frequency >= 1")
        if self.epochs[-1] >= self.ending_epoch:
            raise ValueError(f"ending_epoch {self.ending_epoch} must be greater than the last epoch, {self.epochs[-1]}")

    @classmethod
    def of_range(cls, starting_epoch: int, ending_epoch: int, frequency: int = 1) -> "EpochWindow":
        """Every `frequency`-th epoch of [starting_epoch, ending_epoch); a frequency beyond it fires once, at the start.

        Raises:
            ValueError: the range is empty, reversed or beyond `MAX_EPOCHS`, or the frequency is below 1.
        """
        if not 0 <= starting_epoch < ending_epoch:
            raise ValueError(
                f"the epochs {starting_epoch} (starting_epoch, inclusive) to {ending_epoch} (ending_epoch, "
                "exclusive) are an empty range; ending_epoch must be greater than starting_epoch >= 0"
            )
        if frequency < 1:
            raise ValueError(f"frequency {frequency} must be at least 1")
        _check_length(ending_epoch)
        return cls(range(starting_epoch, ending_epoch, frequency), ending_epoch, frequency)

    @classmethod
    def of_list(cls, epochs: Iterable[int]) -> "EpochWindow":
        """Exactly these epochs, in any order.

        Raises:
            ValueError: there are none, or one is negative or beyond `MAX_EPOCHS`.
        """
        ordered = tuple(sorted(set(epochs)))
        if not ordered or ordered[0] < 0:
            raise ValueError(f"epochs {list(ordered)} must name at least one epoch, each 0 or later")
        _check_length(ordered[-1] + 1)
        return cls(ordered, ordered[-1] + 1)

    @property
    def first(self) -> int:
        """The first firing epoch."""
        return self.epochs[0]

    @property
    def last(self) -> int:
        """The last firing epoch."""
        return self.epochs[-1]

    def fires(self, epoch: int) -> bool:
        """Whether the policy acts in this epoch."""
        if isinstance(self.epochs, range):
            return epoch in self.epochs
        place = bisect_left(self.epochs, epoch)
        return place < len(self.epochs) and self.epochs[place] == epoch

    def meets(self, other: "EpochWindow") -> int | None:
        """The first epoch in which both policies act; None where there is none."""
        first, last = max(self.first, other.first), min(self.last, other.last)
        fewer, more = sorted((self, other), key=lambda each: len(each.epochs))
        inside = fewer.epochs[bisect_left(fewer.epochs, first) : bisect_right(fewer.epochs, last)]
        return next((epoch for epoch in inside if more.fires(epoch)), None)

    def progress(self, epoch: int) -> float:
        """How far the window has come: 0 at the first firing epoch, exactly 1 at the last one and after."""
        if epoch >= self.last:
            return 1.0
        return max(0.0, (epoch - self.first) / (self.last - self.first))

    def __str__(self) -> str:
        if isinstance(self.epochs, range):
            step = f" every {self.frequency}" if self.frequency > 1 else ""
            return f"epochs {self.first}..{self.ending_epoch - 1}{step}"
        return ("epoch " if len(self.epochs) == 1 else "epochs ") + ", ".join(map(str, self.epochs))


def _check_length(ending_epoch: int) -> None:
    if ending_epoch > MAX_EPOCHS:
        raise ValueError(f"epoch {ending_epoch - 1} is given; a run has at most {MAX_EPOCHS} epochs")

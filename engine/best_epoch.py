"""Which epoch is the best: not simply the densest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochScore:
    """What an epoch is judged by.

    Attributes:
        epoch: counted from 0.
        settled: every policy had reached its final level.
        sparsity: fraction of zeros in the scheduled weights, [0, 1].
        quality: the application's metric, more is better.
    """

    epoch: int
    settled: bool
    sparsity: float
    quality: float

    def beats(self, other: "EpochScore") -> bool:
        """Settled epochs beat others; among settled ones quality decides, before that sparsity and then quality.

        Of equals the later one wins: it has trained longer.
        """
        return self._key() > other._key()

    def _key(self) -> tuple[bool, float, float, int]:
        return self.settled, 0.0 if self.settled else self.sparsity, self.quality, self.epoch

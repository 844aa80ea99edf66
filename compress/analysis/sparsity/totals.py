"""How many zeros a network's weights hold.

Counts over parameters. Called by the trainer and the summaries.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from compress.selectors import canonical_parameters


@dataclass(frozen=True)
class Sparsity:
    """Fractions of zeros, each in [0, 1].

    Attributes:
        weights: of each scheduled weight.
        scheduled: of all scheduled weights together; 0 when there are none.
        overall: of all parameters together.
    """

    weights: dict[str, float]
    scheduled: float
    overall: float

    @classmethod
    def of(cls, model: nn.Module, scheduled: Iterable[str]) -> "Sparsity":
        """Counts the zeros of a network.

        Args:
            model: the network.
            scheduled: canonical names of the weights that the schedule acts on; those that are gone are left out.
        """
        parameters = canonical_parameters(model)
        counts = {n: (p.numel() - int(torch.count_nonzero(p)), p.numel()) for n, p in parameters.items()}
        chosen = {name: counts[name] for name in scheduled if name in counts}
        by_weight = {name: zeros / size for name, (zeros, size) in chosen.items()}
        return cls(by_weight, _fraction(chosen), _fraction(counts))


def _fraction(counts: dict[str, tuple[int, int]]) -> float:
    total = sum(size for _, size in counts.values())
    return sum(zeros for zeros, _ in counts.values()) / total if total else 0.0

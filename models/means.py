"""Running means of an epoch's losses, without waiting for the device at each step."""

import torch
from torch import Tensor

from compress.context import LossComponent
from compress.distributed import mean_over_ranks, several_processes


class Means:
    """Sums detached scalars on their device; a mean is fetched only when it is asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, loss: Tensor, own_loss: Tensor, terms: list[LossComponent]) -> None:
        """One step: the whole loss, and where policies added terms, each of them and the task's own loss."""
        named = [("loss", loss)]
        if terms:
            named += [("own_loss", own_loss), *((term.name, term.value) for term in terms)]
        for name, value in named:
            self.note(name, value)

    def note(self, name: str, value: Tensor) -> None:
        """Adds one scalar."""
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def mean(self, name: str) -> float:
        """The mean so far, of this process."""
        return float(self._sums[name]) / self._counts[name]

    def values(self) -> dict[str, float]:
        """All means, over all processes."""
        means = {name: self.mean(name) for name in self._sums}
        if not several_processes():
            return means
        over_all = mean_over_ranks(torch.tensor(list(means.values()), dtype=torch.float64))
        return dict(zip(means, over_all.tolist(), strict=True))

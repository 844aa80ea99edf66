"""Running means of an epoch's losses, without waiting for the device at each step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress.context import LossComponent
from compress.distributed import mean_over_ranks, several_processes
from compress.parameters import widened


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
        value = widened(value.detach())  # in half precision a long sum stops growing
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def mean(self, name: str) -> float:
        """The mean so far, of this process; NaN before anything was added."""
        return float(self._sums[name]) / self._counts[name] if name in self._sums else math.nan

    def values(self) -> dict[str, float]:
        """All means, over all processes; that of `loss` first."""
        means = {name: self.mean(name) for name in dict.fromkeys(("loss", *self._sums))}
        if not several_processes():
            return means
        over_all = mean_over_ranks(torch.tensor(list(means.values()), dtype=torch.float64))
        return dict(zip(means, over_all.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts so far of this process, as plain data and tensors."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what `state_dict` gave, on a device."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])

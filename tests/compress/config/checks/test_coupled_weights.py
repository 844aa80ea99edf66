"""Weights of which nothing can leave are told before training, and no others."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config import dict_config
from compress.errors import ScheduleError


class Net(nn.Module):
    """A norm over channels, written out; a layer that is run on request only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.aside = nn.Conv2d(5, 12, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = self.a(x)
        if other is not None:
            x = x + self.aside(other)[:, :8]
        x = x - x.mean(1, keepdim=True)
        return self.b(x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt())


def built(weight: str, inexact: bool = False) -> Any:
    model = Net()
    at: dict[str, Any] = {"epochs": [0]}
    schedule = {
        "version": 1,
        "pruners": {"p": {"class": "L1RankedStructureParameterPruner", "group_type": "Filters",
                          "desired_sparsity": 0.25, "weights": [weight]}},
        "extensions": {"thin": {"class": "FilterRemover", "allow_inexact": inexact}},
        "policies": [{"pruner": {"instance_name": "p"}, **at}, {"extension": {"instance_name": "thin"}, **at}],
    }  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return dict_config(model, optimizer, schedule, torch.rand(2, 3, 4, 4), epochs=2, strict=True)


def test_what_only_inexact_removal_takes_is_no_fault_where_the_remover_takes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ScheduleError, match="'a.weight': what 'p' masks there cannot leave.*allow_inexact"):
        built("a.weight")
    with caplog.at_level(logging.WARNING):
        assert built("a.weight", inexact=True) is not None
    assert "cannot leave" not in caplog.text


def test_a_weight_that_no_call_reads_is_named() -> None:
    with pytest.raises(
        ScheduleError, match="'aside.weight': .* cannot leave the network .the network does not read it"
    ):
        built("aside.weight")

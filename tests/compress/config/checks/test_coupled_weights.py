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


def built(weight: str, inexact: bool = False, kind: str = "Filters", image: tuple[int, ...] = (2, 3, 4, 4)) -> Any:
    model = Net()
    at: dict[str, Any] = {"epochs": [5]}
    schedule = {
        "version": 1,
        "pruners": {"p": {"class": "L1RankedStructureParameterPruner", "group_type": kind,
                          "desired_sparsity": 0.25, "weights": [weight]}},
        "extensions": {"thin": {"class": "FilterRemover", "allow_inexact": inexact}},
        "policies": [{"pruner": {"instance_name": "p"}, **at}, {"extension": {"instance_name": "thin"}, **at}],
    }  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return dict_config(model, optimizer, schedule, torch.rand(image), epochs=9, strict=True)


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


def test_head_dims_that_the_graph_does_not_know_are_a_fault_before_training() -> None:
    with pytest.raises(ScheduleError, match="b.weight: HeadDims are positions .* finds none in dimension 0"):
        built("b.weight", kind="HeadDims")


def test_example_inputs_that_do_not_fit_are_told_before_training() -> None:
    with pytest.raises(ScheduleError, match="the network's graph is not known: Net cannot be traced"):
        built("a.weight", image=(2, 1, 4, 4))


def test_vectors_that_a_glob_takes_along_are_one_fault() -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))))
    pruner = {"class": "L1RankedStructureParameterPruner", "group_type": "Filters", "desired_sparsity": 0.3}
    schedule = {"version": 1, "pruners": {"p": {**pruner, "weights": ["*.weight"]}},
                "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}  # fmt: skip
    with pytest.raises(ScheduleError) as fault:
        dict_config(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule)
    assert str(fault.value).count("vectors, as of norms") == 1
    assert "1.weight, 3.weight, 5.weight, 7.weight and 2 more are vectors" in str(fault.value)
    assert "name the weights of layers: 0.weight, 2.weight" in str(fault.value)


BUDGETS = ["GlobalRankedGroupPruner", "GreedyFilterPruner", "LearnedRankingPruner"]


@pytest.mark.parametrize("cls", BUDGETS)
def test_a_budget_that_no_named_weight_can_meet_is_told_before_training(cls: str) -> None:
    model = Net()
    schedule = {
        "version": 1,
        "pruners": {"p": {"class": cls, "to": 0.5, "target": "params", "weights": ["a.weight", "b.weight"]}},
        "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ScheduleError, match="'a.weight': 'p' can take no filter there .*will prune nothing at all"):
        dict_config(model, optimizer, schedule, x, epochs=1, strict=True)


def test_a_budget_out_of_reach_says_what_kept_it(caplog: pytest.LogCaptureFixture) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), torch.rand(2, 3, 4, 4)
    pruner = {"class": "GlobalRankedGroupPruner", "to": 0.1, "max_sparsity": 0.5, "weights": ["*.weight"]}
    schedule = {"pruners": {"p": pruner}, "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = dict_config(model, optimizer, schedule, x, epochs=1)
    assert "'1.weight': 'p' can take no filter there (network output), and the budget has to be met" in caplog.text
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    assert "are left; no filter of 1.weight can go: network output" in caplog.text

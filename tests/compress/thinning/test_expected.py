"""What a plan counts is what a run masks and removes, in whole coupled units."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config import dict_config
from compress.policies.policy_probe import Watched

IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
TOKENS = torch.linspace(-1, 1, 2 * 3 * 8).reshape(2, 3, 8)


class Gated(nn.Module):
    """`gate` has units of two rows; those of `first` are columns of it and of `mid`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1)
        self.gate, self.last = nn.Conv2d(12, 24, 1), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.mid(y).relu()
        a, b = self.gate(y).chunk(2, 1)
        return self.last(a * b.sigmoid())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x, need_weights=False)[0])


def scheduled(net: nn.Module, regimes: list[dict[str, Any]], inputs: Tensor, thins: bool = False, epochs: int = 1):
    """A scheduler with one pruner for each of the regimes, all in the same epochs."""
    kind = "L1RankedStructureParameterPruner"
    schedule = {
        "pruners": {f"p{i}": {"class": kind, "reg_regims": regime} for i, regime in enumerate(regimes)},
        "extensions": {"t": {"class": "FilterRemover"}} if thins else {},
        "policies": [
            *({"pruner": {"instance_name": f"p{i}"}, "epochs": list(range(epochs))} for i in range(len(regimes))),
            *([{"extension": {"instance_name": "t"}, "epochs": list(range(epochs))}] if thins else []),
        ],
    }
    return dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule, inputs)


CASES = {
    "halves": (Gated, [{"gate.weight": [0.4, "Filters"]}]),
    "columns of the same pruner": (Gated, [{"gate.weight": [0.4, "Filters"], "first.weight": [0.5, "Filters"]}]),
    "columns of another": (Gated, [{"gate.weight": [0.4, "Filters"]}, {"mid.weight": [0.5, "Filters"]}]),
    "pinned": (Gated, [{"last.weight": [0.4, "Filters"]}, {"gate.weight": [0.4, "Filters"]}]),
    "channels": (Gated, [{"last.weight": [0.4, "Channels"]}]),
    "heads": (Attention, [{"attention.in_proj_weight": [0.5, "Filters"]}]),
    "positions": (Attention, [{"attention.in_proj_weight": [0.3, "HeadDims"]}]),
    "both": (
        Attention,
        [{"attention.in_proj_weight": [0.3, "HeadDims"]}, {"attention.in_proj_weight": [0.5, "Filters"]}],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_planned_zeros_are_those_that_come(case: str) -> None:
    make, regimes = CASES[case]
    net = make()
    scheduler = scheduled(net, regimes, IMAGES if make is Gated else TOKENS)
    planned = scheduler.preview(1).rows[0].zeros
    scheduler.on_epoch_begin(0)
    assert planned == {name: pytest.approx(scheduler.masks[name].sparsity()) for name in planned}
    assert planned.keys() == {name for regime in regimes for name in regime}


def test_what_leaves_is_counted_in_the_network_as_it_is_in_each_epoch() -> None:
    net = Gated()
    dense = net.gate.weight.numel()
    regimes = [{"gate.weight": [0.4, "Filters"], "mid.weight": [0.3, "Filters"], "last.weight": [0.4, "Filters"]}]
    scheduler = scheduled(net, regimes, IMAGES, thins=True, epochs=2)
    rows = scheduler.preview(2).rows
    for epoch in range(2):  # 12, 8, 5 units of `gate`; 12, 9, 7 of `mid`
        scheduler.on_epoch_begin(epoch)
        scheduler.on_minibatch_begin(epoch, 0, 1)
        scheduler.on_minibatch_end(epoch, 0, 1)
        scheduler.on_epoch_end(epoch)
        assert rows[epoch].removed["gate.weight"] == pytest.approx(1 - net.gate.weight.numel() / dense)
        assert rows[epoch].zeros == {"last.weight": pytest.approx(1 / 3)}  # the network's outputs: zeroed in place
    assert net.gate.weight.shape[:2] == (10, 7)


def test_without_example_inputs_rows_are_counted() -> None:
    net = Gated()
    scheduler = scheduled(net, CASES["halves"][1], None)  # type: ignore[arg-type]
    assert scheduler.preview(1).rows[0].zeros == {"gate.weight": 9 / 24}


def test_a_watched_policy_asks_for_the_same() -> None:
    scheduler = scheduled(Gated(), CASES["halves"][1], IMAGES)
    scheduler.policies = [Watched(policy) for policy in scheduler.policies]
    assert scheduler.preview(1).rows[0].zeros == {"gate.weight": pytest.approx(1 / 3)}

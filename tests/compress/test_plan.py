"""A plan shows what comes out: whole groups, and what a thinner has taken out of the network."""

import torch
from torch import nn

from compress.config import dict_config


def test_zeros_are_those_of_whole_filters_and_end_with_the_thinner() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3))
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.6, "weights": ["0.weight"]}
    schedule = {
        "version": 1,
        "pruners": {"p": pruner, "e": {"class": "SparsityLevelParameterPruner", "levels": {"2.weight": 0.5}}},
        "extensions": {"t": {"class": "FilterRemover"}},
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [1, 2]},
            {"pruner": {"instance_name": "e"}, "epochs": [1]},
            {"extension": {"instance_name": "t"}, "epochs": [2]},
        ],
    }
    plan = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule, torch.zeros(1, 3, 8, 8)).preview(4)
    assert [row.levels.get("0.weight") for row in plan.rows] == [None, 0.6, 0.6, 0.6]  # asked for
    assert [row.zeros.get("0.weight") for row in plan.rows] == [None, 19 / 32, None, None]
    assert [row.removed.get("0.weight") for row in plan.rows] == [None, None, 19 / 32, 19 / 32]
    assert [row.zeros.get("2.weight") for row in plan.rows] == [None, 0.5, 0.5, 0.5]  # its elements stay
    assert "59.38 %" in str(plan)
    assert "59.38 % removed" in str(plan)
    assert "60.00 %" not in str(plan)

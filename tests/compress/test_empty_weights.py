"""A weight without elements: nothing to prune or to regularize in it, and nothing fails."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config

NAME = {"weights": ["empty.weight"]}
INSTANCES: list[dict[str, Any]] = [
    *(
        {"class": "GroupLassoRegularizer", "reg_regims": {"*.weight": [0.1, group]}, "threshold_criteria": "Max"}
        for group in ("Channels", "Filters", "3D", "Rows", "Cols", "4D", "Rows+Cols")
    ),
    {"class": "NMPruner", **NAME},
    {"class": "L1RankedStructureParameterPruner", "group_type": "Channels", "desired_sparsity": 0.5, **NAME},
    {"class": "SparsityLevelParameterPruner", "levels": {"empty.weight": 0.5}},
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("instance", INSTANCES, ids=lambda each: str(list(each.values())[:2]))
def test_an_empty_weight_is_left_as_it_is(
    instance: dict[str, Any], shape: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    net = nn.Sequential()
    net.add_module("empty", nn.Linear(shape[1], shape[0], bias=False))
    net.add_module("full", nn.Linear(2, 2, bias=False))
    nn.init.constant_(net.get_parameter("full.weight"), 1.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    kind = "regularizer" if "Regularizer" in instance["class"] else "pruner"
    policies = [{kind: {"instance_name": "it"}, "epochs": [0]}]
    scheduler = dict_config(net, optimizer, {f"{kind}s": {"it": instance}, "policies": policies})
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    loss = scheduler.before_backward_pass(0, 0, 1, torch.zeros(()), optimizer)
    scheduler.on_minibatch_end(0, 0, 1, optimizer)
    assert loss.isfinite()
    assert not [each for each in caplog.messages if "pruned all of" in each]


def test_a_variance_of_no_groups_is_refused_in_words() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    net.register_parameter("empty", nn.Parameter(torch.empty(0, 4)))
    regularizer = {"class": "GroupVarianceRegularizer", "reg_regims": {"empty": [0.1, "Filters"]}}
    policies = [{"regularizer": {"instance_name": "it"}, "epochs": [0]}]
    with pytest.raises(Exception, match="has no group of kind 'Filters'; a variance needs two"):
        dict_config(
            net, torch.optim.SGD(net.parameters(), 0.1), {"regularizers": {"it": regularizer}, "policies": policies}
        )

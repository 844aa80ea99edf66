"""`optimizer: NAME` of a learning-rate policy, for loops with several optimizers."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError


def schedule(**more: Any) -> dict[str, Any]:
    return {
        "lr_schedulers": {"steps": {"class": "MultiStepLR", "milestones": [1], "gamma": 0.1}},
        "policies": [{"lr_scheduler": {"instance_name": "steps"}, "starting_epoch": 0, "ending_epoch": 3, **more}],
    }


@pytest.fixture
def optimizers(net: nn.Module) -> dict[str, torch.optim.Optimizer]:
    critic = nn.Linear(2, 1)
    return {"netG": torch.optim.SGD(net.parameters(), 1.0), "netD": torch.optim.SGD(critic.parameters(), 1.0)}


@pytest.mark.parametrize(
    ("more", "rates"),
    [({}, (0.1, 1.0)), ({"optimizer": "netG"}, (0.1, 1.0)), ({"optimizer": "netD"}, (1.0, 0.1))],
)
def test_only_the_named_optimizers_rate_moves(
    net: nn.Module, optimizers: dict[str, torch.optim.Optimizer], more: dict[str, str], rates: tuple[float, float]
) -> None:
    scheduler = dict_config(net, optimizers["netG"], schedule(**more), optimizers=optimizers)
    plan = scheduler.preview(3, optimizers)
    planned = [(*row.learning_rates, *row.other_rates["netD"]) for row in plan.rows]
    for epoch in range(2):
        scheduler.on_epoch_begin(epoch, optimizers["netG"])
        scheduler.on_epoch_end(epoch, optimizers["netG"])
    assert tuple(each.param_groups[0]["lr"] for each in optimizers.values()) == pytest.approx(rates)
    assert planned[0] == pytest.approx((1.0, 1.0))
    assert planned[2] == pytest.approx(rates)
    assert "learning rate of netD" in str(plan)
    assert "learning rate of" not in str(scheduler.preview(3))  # a loop of one optimizer has one column


def test_wrong_uses_are_told(net: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    with pytest.raises(ScheduleError, match="there is no optimizer 'netH'; did you mean 'net"):
        dict_config(net, optimizers["netG"], schedule(optimizer="netH"), optimizers=optimizers)
    with pytest.raises(ScheduleError, match="a single optimizer: leave the key out"):
        dict_config(net, optimizers["netG"], schedule(optimizer="netD"))
    pruning = {
        "pruners": {"p": {"class": "SparsityLevelParameterPruner", "levels": {"0.weight": 0.5}}},
        "policies": [{"pruner": {"instance_name": "p"}, "optimizer": "netD", "epochs": [0]}],
    }
    with pytest.raises(ScheduleError, match="for learning-rate policies only; a pruner acts on weights"):
        dict_config(net, optimizers["netG"], pruning, optimizers=optimizers)

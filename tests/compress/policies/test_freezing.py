"""LayerFreezer: out of the optimizer's reach for a while, and let go again."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.freezing import norms_of
from compress.policies.policy_probe import Watched
from tests.compress.harness import Run, batch, one_policy, tiny_net

FREEZER = {"class": "LayerFreezer", "weights": ["conv1.*", "bn1.*"]}
OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01, momentum=0.9),
}


def frozen(epochs: list[int], optimizer: str = "momentum", **arguments: Any) -> Run:
    net = tiny_net()
    run = Run({"policies": []}, net)
    run.optimizer = OPTIMIZERS[optimizer](net.parameters())
    run.scheduler = dict_config(net, run.optimizer, one_policy("extensions", {**FREEZER, **arguments}, epochs))
    return run


def values(net: nn.Module, layer: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if name.startswith(layer)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_weights_stay_to_the_bit_and_the_others_learn(optimizer: str) -> None:
    run = frozen([1, 2], optimizer, batch_norm_statistics=True)
    run.epoch(0)  # momenta are there
    parameter = run.net.conv1.weight
    remembered = {k: v.clone() for k, v in run.optimizer.state[parameter].items() if isinstance(v, torch.Tensor)}
    held = {layer: values(run.net, layer) for layer in ("conv1", "bn1", "conv2", "bn2")}
    run.epoch(1)
    run.epoch(2)
    for layer in ("conv1", "bn1"):
        assert all(torch.equal(value, values(run.net, layer)[name]) for name, value in held[layer].items()), layer
    for layer in ("conv2", "bn2"):
        assert all(not torch.equal(value, values(run.net, layer)[name]) for name, value in held[layer].items()), layer
    assert all(torch.equal(run.optimizer.state[parameter][key], value) for key, value in remembered.items())
    run.epoch(3)
    assert not torch.equal(parameter, held["conv1"]["conv1.weight"])
    assert not torch.equal(run.net.bn1.running_mean, held["bn1"]["bn1.running_mean"])


def test_statistics_go_on_unless_they_are_asked_to_stay() -> None:
    run = frozen([0])
    before = values(run.net, "bn1")
    run.epoch(0)
    assert torch.equal(run.net.bn1.weight, before["bn1.weight"])
    assert not torch.equal(run.net.bn1.running_mean, before["bn1.running_mean"])


def test_a_frozen_norm_normalises_by_its_statistics_and_trains_again_afterwards() -> None:
    run = frozen([0], batch_norm_statistics=True)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    modes = {name: module.training for name, module in run.net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert modes == {"bn1": False, "bn2": True}
    run.scheduler.before_parameter_optimization(0, 0, 1, run.optimizer)
    run.scheduler.on_minibatch_end(0, 0, 1, run.optimizer)
    assert run.net.bn1.training


def test_norms_without_a_scale_follow_the_module_they_are_in() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    net = nn.Sequential(block, nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    assert norms_of(net, block.parameters()) == [block[1]]
    assert norms_of(net, [block[0].weight]) == []
    assert norms_of(net, net.parameters()) == [net[2], block[1]]


@pytest.mark.parametrize("kill", [1, 3, 4, 7])
def test_a_resumed_run_is_the_same_run(kill: int, tmp_path: Any) -> None:
    def train(run: Run, first: int, last: int) -> None:
        run.steps = 3
        for number in range(first, last):
            epoch, step = divmod(number, 3)
            if step == 0:
                run.scheduler.on_epoch_begin(epoch, run.optimizer)
            run.step(epoch, step)
            if step == 2:
                run.scheduler.on_epoch_end(epoch, run.optimizer)

    whole, first, second = (frozen([1], batch_norm_statistics=True) for _ in range(3))
    train(whole, 0, 9)
    train(first, 0, kill)
    torch.save(first.save(), tmp_path / "state.pt")
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    train(second, kill, 9)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name


def test_it_counts_as_no_pruning_and_is_seen_to_act() -> None:
    run = frozen([0])
    assert run.scheduler.scheduled_weights == []
    watched = [Watched(policy) for policy in run.scheduler.policies]
    run.scheduler.policies[:] = watched
    run.epoch(0)
    assert watched[0].changes["gradient"] == {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"}


def test_statistics_without_a_norm_are_a_fault() -> None:
    with pytest.raises(ScheduleError, match=r"no BatchNorm's scale is among the weights"):
        frozen([0], weights=["conv1.*"], batch_norm_statistics=True)


def test_a_loop_without_the_hook_between_backward_and_step_is_told() -> None:
    run = frozen([0])
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    run.net(batch(0, 0))
    with pytest.raises(UserError, match="LayerFreezer needs the hook before_parameter_optimization"):
        run.scheduler.on_minibatch_end(0, 0, 1, run.optimizer)

"""Thinners in a schedule: the network shrinks in the middle of training and computes the same."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError
from compress.thinning.recipe import Recipe
from tests.compress.harness import Run, batch, tiny_net

FILTERS = {"class": "L1RankedStructureParameterPruner", "reg_regims": {"conv1.weight": [0.5, "3D"]}}
REMOVER = {"class": "FilterRemover", "thinning_func_str": "remove_filters", "arch": "vgg19", "dataset": "imagenet"}


def schedule(pruner: dict[str, Any] | None = None, epochs: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {
        "pruners": {"filters": pruner or FILTERS},
        "extensions": {"thinner": REMOVER},
        "policies": [
            {"pruner": {"instance_name": "filters"}, "epochs": list(epochs)},
            {"extension": {"instance_name": "thinner"}, "epochs": list(epochs)},
        ],
    }


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def outputs(net: nn.Module) -> torch.Tensor:
    net.eval()
    with torch.no_grad():
        found = net(batch(9, 9))
    net.train()
    return found


def test_the_network_shrinks_and_training_goes_on_with_the_same_optimizer_object() -> None:
    run = Run(schedule())
    run.epoch(0)
    assert run.net.conv1.weight.shape == (8, 3, 3, 3)
    parameter = run.net.conv1.weight
    for epoch in (1, 2):
        run.epoch(epoch)
    assert shapes(run.net)["conv1.weight"] == (4, 3, 3, 3)
    assert shapes(run.net)["bn1.running_mean"] == (4,)
    assert shapes(run.net)["conv2.weight"] == (4, 4, 3, 3)
    assert run.net.conv1.weight is parameter
    assert run.optimizer.state[parameter]["momentum_buffer"].shape == (4, 3, 3, 3)
    assert len(run.scheduler.recipes) == 1


def test_the_thinned_run_trains_like_the_masked_one() -> None:
    thinned, masked = Run(schedule()), Run({k: v for k, v in schedule().items() if k != "extensions"} | {
        "policies": schedule()["policies"][:1]})  # fmt: skip
    for epoch in range(1, 4):
        thinned.epoch(epoch)
        masked.epoch(epoch)
    kept = masked.net.conv1.weight.detach().flatten(1).any(1)
    assert int(kept.sum()) == 4
    torch.testing.assert_close(thinned.net.conv1.weight, masked.net.conv1.weight[kept], rtol=1e-3, atol=1e-5)


def test_it_can_thin_again_and_the_recipes_compose_on_a_fresh_network() -> None:
    run = Run(schedule(epochs=(1, 3)))
    for epoch in range(5):
        run.epoch(epoch)
    assert run.net.conv1.out_channels == 2
    fresh = tiny_net()
    for recipe in run.scheduler.recipes:
        Recipe.from_dict(recipe).apply(fresh)
    fresh.load_state_dict(run.net.state_dict())
    torch.testing.assert_close(outputs(fresh), outputs(run.net))


def test_state_brings_a_fresh_network_to_the_thinned_shape(tmp_path: Path) -> None:
    run = Run(schedule())
    for epoch in range(3):
        run.epoch(epoch)
    torch.save(run.scheduler.state_dict(), tmp_path / "s.pt")
    other = Run(schedule())
    other.scheduler.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert shapes(other.net) == shapes(run.net)


@pytest.mark.parametrize("name", ["GradientRankedFilterPruner", "ActivationAPoZRankedFilterPruner"])
def test_it_waits_for_pruners_that_look_at_minibatches_first(name: str) -> None:
    pruner = {
        "class": name,
        "desired_sparsity": 0.5,
        "weights": ["conv1.weight"],
        "group_type": "Filters",
        "batches": 2,
    }
    run, sizes = Run(schedule(pruner)), []
    run.epoch(1, after=lambda step: sizes.append(run.net.conv1.out_channels))
    assert sizes == [8, 8, 4, 4]


def test_masks_made_at_the_last_minibatch_are_thinned_at_the_epochs_end() -> None:
    pruner = {"class": "GradientRankedFilterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"], "batches": 4}
    run = Run(schedule({**pruner, "group_type": "Filters"}))
    run.epoch(1)
    assert run.net.conv1.out_channels == 4


def test_what_pruners_remember_of_each_element_is_cut_too() -> None:
    two = schedule()
    two["pruners"]["moving"] = {"class": "MovementPruner", "desired_sparsity": 0.3, "weights": ["conv2.weight"]}
    two["policies"].append({"pruner": {"instance_name": "moving"}, "epochs": [0, 1, 2]})
    run = Run(two)
    for epoch in range(3):
        run.epoch(epoch)
    assert run.net.conv2.weight.shape == (4, 4, 3, 3)
    assert int((run.net.conv2.weight == 0).sum()) == round(0.3 * 4 * 4 * 9)


def test_without_a_whole_group_it_says_that_nothing_went(caplog: pytest.LogCaptureFixture) -> None:
    element = {"class": "SparsityLevelParameterPruner", "levels": {"conv1.weight": 0.5}}
    run = Run(schedule(element))
    run.epoch(1)
    assert "no whole filter or channel is masked or zeroed by a regularizer, so nothing was removed" in caplog.text
    assert run.scheduler.recipes == []


def test_the_story_names_what_went_and_the_proof(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Run(schedule()).epoch(1)
    assert "thinner: thinned in epoch 1: 4 units of 1 groups removed" in caplog.text
    assert "proved on the first training batch: outputs differ by" in caplog.text


def test_a_thinner_with_nothing_before_it_is_a_warning() -> None:
    net = tiny_net()
    backwards = schedule()
    backwards["policies"].reverse()
    with pytest.raises(ScheduleError, match="nothing before 'thinner' makes zeros"):
        dict_config(net, torch.optim.SGD(net.parameters(), 0.1), backwards, strict=True)


def test_given_example_inputs_are_used_at_the_first_minibatch() -> None:
    net = tiny_net()
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule(), batch(0, 0))
    scheduler.on_epoch_begin(1)
    scheduler.on_minibatch_begin(1, 0, 4)
    assert net.conv1.out_channels == 4


def test_a_loop_that_keeps_its_last_loss_alive_trains_on() -> None:
    run = Run(schedule())
    for epoch in range(3):
        run.scheduler.on_epoch_begin(epoch, run.optimizer)
        for step in range(2):
            run.scheduler.on_minibatch_begin(epoch, step, 2, run.optimizer)  # thins while `loss` of epoch 0 lives
            loss = run.net(batch(epoch, step)).square().mean()
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.scheduler.on_minibatch_end(epoch, step, 2, run.optimizer)
    assert run.net.conv1.weight.grad is not None
    assert run.net.conv1.weight.grad.shape == (4, 3, 3, 3)

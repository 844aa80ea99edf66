"""Thinners in a schedule: the network shrinks in the middle of training and computes the same."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress.policies.thinning as policy
from compress.config import dict_config
from compress.errors import ScheduleError, UserError
from compress.graph.macs.count import count_macs
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


# What a thinning was proved on, and what the log says of it.


SHAPE = torch.zeros(1, 3, 6, 6)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inputs that thinnings were proved on."""
    found: list[Any] = []

    def spy(model: Any, graph: Any, removed: Any, inputs: Any, *rest: Any, **settings: Any) -> Any:
        found.append(inputs)
        return remove_units(model, graph, removed, inputs, *rest, **settings)

    remove_units = policy.remove_units
    monkeypatch.setattr(policy, "remove_units", spy)
    return found


def test_the_proof_runs_on_the_first_training_batch(tried: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run(schedule(), example_inputs=SHAPE)
    run.epoch(0)
    assert not run.net._forward_pre_hooks  # looked once
    run.epoch(1)
    [(images,)] = tried
    assert torch.equal(images, batch(0, 0)[:4])
    assert "proved on the first training batch: outputs differ by" in caplog.text
    assert "conv1.weight" in run.scheduler.recipes[0]["kept"]


@pytest.mark.parametrize(("inputs", "words"), [(SHAPE, "random inputs"), (batch(0, 0), "the example inputs")])
def test_before_any_batch_it_says_what_else_it_took(inputs: torch.Tensor, words: str, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    run = Run(schedule(), example_inputs=inputs)
    run.epoch(1)
    assert f"proved on {words}" in caplog.text


def test_a_network_called_by_keywords_is_proved_on_its_first_batch_too(tried: list[Any]) -> None:
    run = Run(schedule(), example_inputs=SHAPE)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    run.net(input=batch(0, 0))
    run.epoch(1)
    assert list(tried[0]) == ["input"]
    assert torch.equal(tried[0]["input"], batch(0, 0)[:4])


def test_a_trace_of_the_network_is_no_batch(tried: list[Any]) -> None:
    run = Run(schedule(), example_inputs=SHAPE)
    run.scheduler.on_epoch_begin(0, run.optimizer)
    run.scheduler.on_minibatch_begin(0, 0, 1, run.optimizer)
    assert count_macs(run.net, SHAPE).total > 0
    run.epoch(0)
    run.epoch(1)
    [(images,)] = tried
    assert torch.equal(images, batch(0, 0)[:4])


class NormInside(nn.Module):
    """A norm over the channels that is no layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(nn.functional.layer_norm(self.first(x), self.first.weight.shape[:1]))
        return out


def test_an_inexact_removal_is_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = NormInside()
    ranked = {"class": "L1RankedStructureParameterPruner", "weights": ["first.weight"], "desired_sparsity": 0.5}
    given = schedule({**ranked, "group_type": "Filters"})
    given["extensions"]["thinner"] = {"class": "FilterRemover", "allow_inexact": True}
    inputs = torch.randn(4, 5)
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), given, inputs)
    scheduler.on_epoch_begin(1)
    scheduler.on_minibatch_begin(1, 0, 4)
    assert net.first.out_features == 6
    [record] = [each for each in caplog.records if "INEXACT" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert "proved" not in record.getMessage()
    told = float(record.getMessage().split("changed the outputs by ")[1].split()[0])
    assert told > 1e-2


def test_a_quantized_network_is_not_thinned() -> None:
    run = Run(schedule())
    run.epoch(0)
    run.scheduler.structures.append({"layers": {}, "folded": {}})
    with pytest.raises(UserError, match="'thinner': the network is quantized already"):
        run.epoch(1)
    assert run.net.conv1.out_channels == 8


# Zeros that a regularizer's threshold makes leave the network, with and without a mask, and the change is told.


REGULARIZER = {"class": "GroupLassoRegularizer", "reg_regims": {"conv1.weight": [0.03, "Filters"]}}


def zeroing(thin_in: int, keep_mask: bool = False, thinner_first: bool = False) -> dict[str, Any]:
    policies = [
        {"regularizer": {"instance_name": "lasso", "args": {"keep_mask": keep_mask}}, "epochs": [0, 1]},
        {"extension": {"instance_name": "thinner"}, "epochs": [thin_in]},
    ]
    return {
        "regularizers": {"lasso": {**REGULARIZER, "threshold_criteria": "Mean_Abs"}},
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "policies": policies[::-1] if thinner_first else policies,
    }


def weak_run(**how: Any) -> Run:
    """Three filters of conv1 are below the threshold; their biases and norms are as large as any other's."""
    net = tiny_net()
    with torch.no_grad():
        net.conv1.weight[:3] *= 0.01
        net.bn1.bias[:3] = 1.0
    return Run(zeroing(**how), net, lr=1e-5)  # BatchNorm makes the gradients of weak filters large


def told_change(text: str) -> float:
    """What masking the rest of each unit changed, as the log says."""
    found = re.search(r"masking the rest of each unit changed them by (\S+)\)", text)
    assert found is not None, text
    return float(found[1])


def test_zeros_without_a_mask_leave_and_the_change_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = weak_run(thin_in=2)
    for epoch in (0, 1):
        run.epoch(epoch)
    with torch.no_grad():
        run.net.conv2.weight[0] = 0  # no regularizer names it: it may have been made zero to begin with
    run.epoch(2)
    assert (run.net.conv1.out_channels, run.net.conv2.out_channels) == (5, 4)
    assert "3 units of 1 groups removed" in caplog.text
    assert told_change(caplog.text) > 1e-3
    assert not run.scheduler.masks.masked()  # what was zero is gone; nothing else is held at zero


@pytest.mark.parametrize("keep_mask", [True, False])
@pytest.mark.parametrize("thinner_first", [True, False])
def test_in_the_regularizers_last_epoch_the_thinner_waits_for_its_zeros(keep_mask: bool, thinner_first: bool) -> None:
    run, seen = weak_run(thin_in=1, keep_mask=keep_mask, thinner_first=thinner_first), []
    run.epoch(0)
    run.epoch(1, after=lambda step: seen.append(run.net.conv1.out_channels))
    assert (set(seen), run.net.conv1.out_channels) == ({8}, 5)


def test_a_resumed_run_knows_of_the_zeros() -> None:
    run = weak_run(thin_in=2)
    for epoch in (0, 1):
        run.epoch(epoch)
    other = weak_run(thin_in=2)
    other.load(run.save())
    other.epoch(2)
    assert other.net.conv1.out_channels == 5


@pytest.mark.parametrize(("thin_in", "warns"), [(0, True), (1, False), (2, False)])
def test_the_check_knows_when_a_regularizer_makes_zeros(thin_in: int, warns: bool, caplog: Any) -> None:
    net = tiny_net()
    dict_config(net, torch.optim.SGD(net.parameters(), 0.1), zeroing(thin_in, thinner_first=True))
    assert ("nothing before 'thinner' makes zeros" in caplog.text) == warns

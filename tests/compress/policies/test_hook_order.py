"""Loops that leave hooks out, call them out of order or with another optimizer: right all the same, or told so."""

import copy
import gc
import itertools
import logging
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.policies.base import HOOKS
from compress.scheduler import CompressionScheduler
from tests.compress.harness import Run, batch, one_policy, tiny_net

LEVEL = {"class": "SparsityLevelParameterPruner", "levels": {"conv1.weight": 0.5, "fc.weight": 0.5}}
SCHEDULES: dict[str, dict[str, Any]] = {
    "pruner": one_policy("pruners", LEVEL, [0, 1, 2]),
    "regularizer": one_policy("regularizers", {"class": "L1Regularizer", "reg_regims": {"fc.weight": 0.1}}, [0, 1, 2]),
    "rate": one_policy("lr_schedulers", {"class": "ExponentialLR", "gamma": 0.5}, [0, 1, 2]),
    "quantizer": one_policy("quantizers", {"class": "PACTQuantizer", "bits_activations": 4, "bits_weights": 4}, [0, 1]),
    "teacher": one_policy("distillers", {"class": "KnowledgeDistillation", "teacher": "self"}, [0, 1, 2]),
}
FAST_FIRST = [each if i < 3 else pytest.param(each, marks=pytest.mark.slow) for i, each in enumerate(SCHEDULES)]
PLACES = {  # hook -> where it belongs between the loop's own acts
    "on_minibatch_begin": 0, "before_backward_pass": 1, "before_parameter_optimization": 2, "on_minibatch_end": 3,
}  # fmt: skip


def loop(schedule: dict[str, Any], places: dict[str, int | None], begin: bool = True, end: bool = True) -> nn.Module:
    """Two epochs and the begin of a third; each hook is called at the place given, or not at all."""
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    scheduler: Any = dict_config(net, optimizer, schedule, batch(0, 0))
    for epoch in range(3):
        if begin:
            scheduler.on_epoch_begin(epoch)
        for step in range(2 if epoch < 2 else 0):
            loss = torch.zeros(())
            for place in range(4):
                for hook in [hook for hook in PLACES if places.get(hook) == place]:
                    given = {"loss": loss} if hook == "before_backward_pass" else {}
                    last = {"optimizer": optimizer} if hook == "before_parameter_optimization" else {}
                    answer = getattr(scheduler, hook)(epoch, step, 2, **given, **last)
                    loss = answer if given else loss
                if place == 0:
                    loss = net(batch(epoch, step)).square().mean()
                elif place == 1:
                    optimizer.zero_grad()
                    loss.backward()
                elif place == 2:
                    optimizer.step()
        if end:
            scheduler.on_epoch_end(epoch)
    return net


@pytest.mark.parametrize("name", FAST_FIRST)
def test_every_subset_of_the_hooks_is_right_or_told(name: str) -> None:
    expected, told = loop(SCHEDULES[name], dict(PLACES)).state_dict(), 0
    for left_out in itertools.chain.from_iterable(itertools.combinations(HOOKS, n) for n in range(7)):
        places = {hook: place for hook, place in PLACES.items() if hook not in left_out}
        try:
            found = loop(SCHEDULES[name], places, "on_epoch_begin" not in left_out, "on_epoch_end" not in left_out)
        except UserError:
            told += 1
            continue
        if set(left_out) < set(HOOKS):  # a loop that calls none has no scheduler
            torch.testing.assert_close(found.state_dict(), expected, rtol=0, atol=0, msg=f"{left_out}")
    assert told > 0


@pytest.mark.parametrize("name", FAST_FIRST)
def test_every_order_of_the_minibatch_s_hooks_is_right_or_told(name: str) -> None:
    expected, told = loop(SCHEDULES[name], dict(PLACES)).state_dict(), 0
    for order in itertools.permutations(range(4)):
        try:
            found = loop(SCHEDULES[name], dict(zip(PLACES, order, strict=True)))
        except (UserError, RuntimeError):  # weights that are masked before the backward pass: torch says so
            told += 1
            continue
        torch.testing.assert_close(found.state_dict(), expected, rtol=0, atol=0, msg=f"{order}")
    assert told > 0 or name == "rate"


def test_epochs_do_not_go_back_but_one_may_be_repeated() -> None:
    run = Run(SCHEDULES["pruner"])
    run.epoch(0)
    run.epoch(1)
    run.epoch(1)
    with pytest.raises(UserError, match="epoch 0 begins after epoch 1"):
        run.epoch(0)
    run.scheduler.load_state_dict(run.scheduler.state_dict())
    run.epoch(0)


def test_a_minibatch_that_the_loop_leaves_out_lacks_no_hook() -> None:
    run = Run(SCHEDULES["pruner"])
    run.scheduler.on_epoch_begin(0)
    run.scheduler.on_minibatch_begin(0, 0, 4)
    run.scheduler.before_backward_pass(0, 0, 4, torch.zeros(()))
    for step in range(1, 4):
        run.step(0, step)
    run.scheduler.on_epoch_end(0)


def test_a_run_resumed_inside_of_an_epoch_goes_on() -> None:
    first, second = Run(SCHEDULES["pruner"]), Run(SCHEDULES["pruner"])
    first.scheduler.on_epoch_begin(0)
    first.step(0, 0)
    second.load(copy.deepcopy(first.save()))
    second.step(0, 1)
    first.step(0, 1)
    torch.testing.assert_close(second.net.state_dict(), first.net.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_another_optimizer_is_refused_and_a_wrapper_of_it_is_not(name: str, hook: str) -> None:
    run = Run(SCHEDULES[name], example_inputs=batch(0, 0))
    wrapper = object.__new__(torch.optim.SGD)
    wrapper.__dict__.update(run.optimizer.__dict__)
    run.scheduler.on_epoch_begin(0, wrapper)
    other = torch.optim.Adam(run.net.parameters())
    with pytest.raises(UserError, match=rf"{hook} was given another optimizer \(Adam\) than .* \(SGD\)"):
        getattr(run.scheduler, hook)(0, other)


@pytest.mark.parametrize("given", [True, False])
def test_thinning_cuts_the_state_of_the_known_optimizer(given: bool) -> None:
    schedule = one_policy(
        "pruners",
        {"class": "L1RankedStructureParameterPruner", "reg_regims": {"conv1.weight": [0.5, "3D"]}},
        [1],
    )
    schedule["extensions"] = {"thinner": {"class": "FilterRemover"}}
    schedule["policies"].append({"extension": {"instance_name": "thinner"}, "epochs": [1]})
    run = Run(schedule, example_inputs=batch(0, 0))
    for epoch in range(2):
        run.scheduler.on_epoch_begin(epoch, run.optimizer if given else None)
        for step in range(2):
            run.scheduler.on_minibatch_begin(epoch, step, 2, run.optimizer if given else None)
            loss = run.net(batch(epoch, step)).square().mean()
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.scheduler.on_minibatch_end(epoch, step, 2)
        run.scheduler.on_epoch_end(epoch)
    weight = run.net.conv1.weight
    assert run.optimizer.state[weight]["momentum_buffer"].shape == weight.shape == (4, 3, 3, 3)


# Epochs that a loop leaves out, and two schedulers that act on one network in turns: said, or refused.


HALF = {"class": "SparsityLevelParameterPruner", "levels": {"fc.weight": 0.5}}


def scheduler_of(net: torch.nn.Module) -> CompressionScheduler:
    return dict_config(net, torch.optim.SGD(net.parameters(), 0.1), one_policy("pruners", HALF, [0, 1, 2]))


@pytest.mark.parametrize(("epochs", "told"), [([0, 1, 2], 0), ([0, 5], 1), ([3, 4], 0), ([0, 2, 3], 1)])
def test_epochs_that_are_left_out_are_reported(epochs: list[int], told: int, caplog: Any) -> None:
    scheduler = scheduler_of(tiny_net())
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch)
        scheduler.on_epoch_end(epoch)
    lines = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(lines) == told
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_loaded_state_may_jump(caplog: Any) -> None:
    first, second = scheduler_of(tiny_net()), scheduler_of(tiny_net())
    first.on_epoch_begin(0)
    first.on_epoch_end(0)
    second.load_state_dict(first.state_dict())
    second.on_epoch_begin(7)
    assert not caplog.records


def test_two_schedulers_in_turns_are_refused() -> None:
    net = tiny_net()
    first, second = scheduler_of(net), scheduler_of(net)
    first.on_epoch_begin(0)
    second.on_epoch_begin(0)
    with pytest.raises(UserError, match="two schedulers act on this Sequential in turns.*one schedule"):
        first.on_minibatch_begin(0, 0, 1)


def epoch_of(scheduler: CompressionScheduler, epoch: int) -> None:
    scheduler.on_epoch_begin(epoch)
    scheduler.on_minibatch_begin(epoch, 0, 1)
    scheduler.on_minibatch_end(epoch, 0, 1)
    scheduler.on_epoch_end(epoch)


def test_an_epoch_each_in_turns_is_refused_too() -> None:
    net = tiny_net()
    first, second = scheduler_of(net), scheduler_of(net)
    epoch_of(first, 0)
    epoch_of(second, 0)
    with pytest.raises(UserError, match="two schedulers act on this Sequential in turns"):
        epoch_of(first, 1)


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("other", ["conv1.weight", "fc.weight"])
def test_zeros_that_a_next_scheduler_does_not_hold_are_reported(other: str, gone: bool, caplog: Any) -> None:
    net = tiny_net()
    first = scheduler_of(net)
    epoch_of(first, 0)
    if gone:
        del first
        gc.collect()
    level = {**HALF, "levels": {other: 0.5}}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    second = dict_config(net, optimizer, one_policy("pruners", level, [0, 1, 2]))
    for epoch in range(2):
        epoch_of(second, epoch)
    lost = [record.getMessage() for record in caplog.records if "the zeros are lost" in record.getMessage()]
    assert len(lost) == (other != "fc.weight")
    assert all("(fc.weight)" in line for line in lost)


def test_a_scheduler_that_takes_over_the_state_holds_the_zeros(caplog: Any) -> None:
    net = tiny_net()
    first, second = scheduler_of(net), scheduler_of(net)
    epoch_of(first, 0)
    second.load_state_dict(first.state_dict())
    epoch_of(second, 1)
    assert not caplog.records


def test_one_after_the_other_and_after_one_that_broke_off_are_not() -> None:
    net = tiny_net()
    first, second = scheduler_of(net), scheduler_of(net)
    first.on_epoch_begin(0)  # and its loop breaks off
    second.on_epoch_begin(0)
    second.on_minibatch_begin(0, 0, 1)
    second.on_epoch_end(0)
    third, other = scheduler_of(net), scheduler_of(tiny_net())
    del second
    gc.collect()
    for each in (third, other):
        each.on_epoch_begin(0)
        each.on_minibatch_begin(0, 0, 1)
    third.on_minibatch_begin(0, 0, 1)

"""Epochs that a loop leaves out, and two schedulers that act on one network in turns: said, or refused."""

import gc
import logging
from typing import Any

import pytest
import torch

from compress.config import dict_config
from compress.errors import UserError
from compress.scheduler import CompressionScheduler
from tests.compress.harness import one_policy, tiny_net

LEVEL = {"class": "SparsityLevelParameterPruner", "levels": {"fc.weight": 0.5}}


def scheduler_of(net: torch.nn.Module) -> CompressionScheduler:
    return dict_config(net, torch.optim.SGD(net.parameters(), 0.1), one_policy("pruners", LEVEL, [0, 1, 2]))


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
    level = {**LEVEL, "levels": {other: 0.5}}
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

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

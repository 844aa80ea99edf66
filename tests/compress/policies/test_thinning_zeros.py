"""Zeros that a regularizer's threshold makes leave the network, with and without a mask, and the change is told."""

import logging
import re
from typing import Any

import pytest
import torch

from compress.config import dict_config
from tests.compress.harness import Run, tiny_net

REGULARIZER = {"class": "GroupLassoRegularizer", "reg_regims": {"conv1.weight": [0.03, "Filters"]}}


def schedule(thin_in: int, keep_mask: bool = False, thinner_first: bool = False) -> dict[str, Any]:
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
    return Run(schedule(**how), net, lr=1e-5)  # BatchNorm makes the gradients of weak filters large


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
    dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule(thin_in, thinner_first=True))
    assert ("nothing before 'thinner' makes zeros" in caplog.text) == warns

"""What every adapter refuses, without the packages."""

import importlib
import sys

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.context import LossComponent, PolicyLoss
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.integrations.driver import LoopDriver
from compress.policies.base import Policy
from compress.scheduler import CompressionScheduler
from tests.compress.integrations.loop import Net, assert_same, plain_loop, schedule, sgd


class Adds(Policy):
    """`loss * factor + term`."""

    def __init__(self, factor: float, term: torch.Tensor) -> None:
        super().__init__("adds", EpochWindow.of_list([0]))
        self.factor, self.term = factor, term

    def before_backward_pass(self, ctx, loss):
        return PolicyLoss(loss * self.factor + self.term, [LossComponent("adds_loss", self.term)])


def driver_of(net: nn.Module, policy: Policy) -> LoopDriver:
    driver = LoopDriver(CompressionScheduler(net, [policy]))
    driver.start(net, sgd(net))
    driver.begin_epoch(0, 1)
    driver.begin_update(0)
    return driver


def test_an_epoch_whose_end_never_came_ends_before_the_next_one() -> None:
    net, other = Net(), Net()
    optimizer = sgd(net)
    driver = LoopDriver(dict_config(net, optimizer, schedule()))
    driver.start(net, optimizer)
    driver.begin_epoch(0, 4)
    assert driver.is_in(0)
    state = driver.state_dict()  # saved behind the last update
    optimizer = sgd(other)
    resumed = LoopDriver(dict_config(other, optimizer, schedule()))
    resumed.load_state_dict(state)
    resumed.start(other, optimizer)
    assert not resumed.is_in(0)
    resumed.begin_epoch(1, 4)
    assert resumed.is_in(1)
    assert optimizer.param_groups[0]["lr"] == 0.05
    resumed.end_before(1)
    assert resumed.is_in(1)
    resumed.end_before(2)
    assert not resumed.is_in(1)
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_a_term_is_added_to_the_gradients() -> None:
    net = Net()
    net.first.bias.grad = torch.ones(8)
    assert driver_of(net, Adds(1.0, 3 * net.first.bias.sum())).add_terms().keys() == {"adds_loss"}
    assert torch.equal(net.first.bias.grad, torch.full((8,), 4.0))


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0])
def test_a_policy_that_scales_the_loss_is_refused(factor: float) -> None:
    net = Net()
    with pytest.raises(UserError, match=f"'adds_loss' belongs to a policy that multiplies the loss.*by {factor:g}"):
        driver_of(net, Adds(factor, net.first.bias.sum())).add_terms()


def test_a_term_of_the_forward_pass_that_is_over_is_refused() -> None:
    net = Net()
    term = net(torch.ones(1, 6), torch.ones(1, 2))["loss"]
    term.backward()
    with pytest.raises(UserError, match="'adds_loss' needs the forward pass, which is over"):
        driver_of(net, Adds(1.0, term)).add_terms()


def test_other_faults_of_backward_are_not_hidden() -> None:
    net = Net()
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar"):
        driver_of(net, Adds(1.0, net.first.bias)).add_terms()


def test_the_scheduler_of_a_function_is_there_from_the_start_on() -> None:
    with pytest.raises(UserError, match="made when training starts"):
        _ = LoopDriver(lambda model, optimizer: CompressionScheduler(model)).scheduler


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_without_its_package_an_adapter_says_so(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"compress.integrations.{package}", raising=False)
    with pytest.raises(UserError, match=f"needs the package {package}: pip install"):
        importlib.import_module(f"compress.integrations.{package}")


def test_the_plain_loop_is_the_same_each_time() -> None:
    assert_same(plain_loop(schedule())[0], plain_loop(schedule())[0])

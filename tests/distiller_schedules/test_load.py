"""Schedules in the form of those that Distiller publishes, one of each kind, load unchanged and train."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.config import file_config
from tests.distiller_schedules.networks import AlexNet, ResNet20, SimpleNet, WordModel

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.glob("*.yaml"))
THINS = {"resnet20_activation_apoz", "resnet20_channel_rank", "resnet20_filter_rank"}
NETWORKS = {"alexnet": AlexNet, "simplenet": SimpleNet, "word": WordModel}


def build(path: Path, **given: Any) -> Any:
    network = NETWORKS.get(path.name.split("_")[0].split(".")[0], ResNet20)()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    return file_config(network, optimizer, path, **given)


def test_there_is_one_of_each_kind() -> None:
    assert len(FILES) == 16


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_plans(path: Path) -> None:
    scheduler = build(path)
    rows = scheduler.preview().rows
    assert len(rows) == scheduler.last_epoch
    assert any(row.acting for row in rows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_trains(path: Path) -> None:
    words = path.stem.startswith("word")
    inputs = torch.randint(0, 20, (5, 2)) if words else torch.randn(2, 3, 32, 32)
    scheduler = build(path, example_inputs=inputs)
    network, optimizer = scheduler.model, scheduler._optimizer
    before = sum(parameter.numel() for parameter in network.parameters())
    windows = [policy.window for policy in scheduler.policies]
    for epoch in sorted({window.first for window in windows} | {window.last for window in windows}):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(2):
            _train(scheduler, network, optimizer, inputs, epoch, step)
        scheduler.on_epoch_end(epoch, optimizer)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    smaller = sum(parameter.numel() for parameter in network.parameters()) < before
    assert smaller == (path.stem in THINS)
    masked = any(masker.mask is not None for masker in scheduler.masks.values())
    assert masked == (path.stem not in {*THINS, "resnet20_slimming", "resnet20_dropfilter"}), "or masks are over by now"


def _train(scheduler: Any, network: nn.Module, optimizer: Any, inputs: torch.Tensor, epoch: int, step: int) -> None:
    scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
    loss = scheduler.before_backward_pass(epoch, step, 2, network(inputs).square().mean(), optimizer)
    optimizer.zero_grad()
    loss.backward()
    scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
    optimizer.step()
    scheduler.on_minibatch_end(epoch, step, 2, optimizer)


def test_channels_that_a_regularizer_zeroes_leave_in_its_last_epoch() -> None:
    scheduler = build(HERE / "gss_channels-removal_training.yaml", example_inputs=torch.randn(2, 3, 32, 32))
    network, optimizer = scheduler.model, scheduler._optimizer
    network.layer1[0].conv2.weight.data[:, 1] *= 1e-3
    optimizer.param_groups[0]["lr"] = 1e-5
    scheduler.on_epoch_begin(179, optimizer)
    for step in range(2):
        _train(scheduler, network, optimizer, torch.randn(2, 3, 32, 32), 179, step)
    scheduler.on_epoch_end(179, optimizer)
    block = network.layer1[0]
    assert (block.conv1.out_channels, block.conv2.in_channels, block.conv2.out_channels) == (3, 3, 4)

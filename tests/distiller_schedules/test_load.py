"""Schedules in the form of those that Distiller publishes, one of each kind, load unchanged and train."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from compress.config import file_config
from compress.errors import ScheduleError
from compress.registry import EXTENSIONS
from tests.distiller_schedules.networks import AlexNet, ResNet20, SimpleNet, WordModel

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.glob("*.yaml"))
NETWORKS = {"alexnet": AlexNet, "simplenet": SimpleNet, "word": WordModel}
WITH_EXTENSIONS = {
    "gss_channels-removal_training", "resnet20_activation_apoz", "resnet20_channel_rank", "resnet20_filter_rank",
}  # fmt: skip
TO_COME = set() if "FilterRemover" in EXTENSIONS else WITH_EXTENSIONS
NOT_YET = r"unknown section 'extensions'|unknown policy key 'extension'|this one names none"


def build(path: Path, **given: Any) -> Any:
    network = NETWORKS.get(path.name.split("_")[0].split(".")[0], ResNet20)()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    return file_config(network, optimizer, path, **given)


def without_extensions(path: Path, folder: Path) -> Path:
    """The same schedule without its extension and the policy of that."""
    data = yaml.safe_load(path.read_text())
    data.pop("extensions", None)
    data["policies"] = [policy for policy in data["policies"] if "extension" not in policy]
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(data, sort_keys=False))
    return copy


def test_there_is_one_of_each_kind() -> None:
    assert len(FILES) == 16
    assert {path.stem for path in FILES} >= WITH_EXTENSIONS


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in TO_COME], ids=lambda path: path.stem)
def test_it_loads_and_plans(path: Path) -> None:
    scheduler = build(path)
    rows = scheduler.preview().rows
    assert len(rows) == scheduler.last_epoch
    assert any(row.acting for row in rows)


@pytest.mark.parametrize("path", [p for p in FILES if p.stem in TO_COME], ids=lambda path: path.stem)
def test_extensions_are_its_only_fault(path: Path) -> None:
    with pytest.raises(ScheduleError, match=NOT_YET) as caught:
        build(path)
    assert {fault.path.split(".")[0] for fault in caught.value.faults if fault.fatal} <= {
        "extensions",
        *(f"policies[{i}]" for i in range(5)),
    }
    assert len([fault for fault in caught.value.faults if fault.fatal]) == 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_trains(path: Path, tmp_path: Path) -> None:
    scheduler = build(without_extensions(path, tmp_path))
    network = scheduler.model
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    words = isinstance(network, WordModel)
    inputs = torch.randint(0, 20, (5, 2)) if words else torch.randn(2, 3, 32, 32)
    windows = [policy.window for policy in scheduler.policies]
    for epoch in sorted({window.first for window in windows} | {window.last for window in windows}):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(2):
            _train(scheduler, network, optimizer, inputs, epoch, step)
        scheduler.on_epoch_end(epoch, optimizer)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    pruned = [name for name, masker in scheduler.masks.items() if masker.mask is not None]
    discards = "dropfilter" in path.stem  # its masks live for one minibatch
    assert bool(pruned) == (path.stem != "resnet20_slimming" and not discards)


def _train(scheduler: Any, network: nn.Module, optimizer: Any, inputs: torch.Tensor, epoch: int, step: int) -> None:
    scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
    loss = scheduler.before_backward_pass(epoch, step, 2, network(inputs).square().mean(), optimizer)
    optimizer.zero_grad()
    loss.backward()
    scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
    optimizer.step()
    scheduler.on_minibatch_end(epoch, step, 2, optimizer)

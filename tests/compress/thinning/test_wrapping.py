"""Thinning under DistributedDataParallel: two processes shrink alike and train on."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from compress.config import dict_config
from tests.compress.harness import tiny_net

SCHEDULE = {
    "pruners": {"it": {"class": "FPGMRankedFilterPruner", "weights": ["conv1.weight"], "desired_sparsity": 0.5}},
    "extensions": {"thinner": {"class": "FilterRemover"}},
    "policies": [
        {"pruner": {"instance_name": "it"}, "epochs": [1]},
        {"extension": {"instance_name": "thinner"}, "epochs": [1]},
    ],
}  # fmt: skip
STEPS = 3


def without_norms() -> nn.Module:
    net = tiny_net().double()
    net.bn1, net.bn2 = nn.Identity(), nn.Identity()
    return net


def images(epoch: int, step: int) -> torch.Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(10 * epoch + step)).double()


def train(model: nn.Module, rank: int, ranks: int, wrap: Callable[[nn.Module], nn.Module] | None = None) -> None:
    """`wrap` is put around the network after the scheduler was built."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = dict_config(model, optimizer, SCHEDULE, example_inputs=images(0, 0))
    model = model if wrap is None else wrap(model)
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(STEPS):
            scheduler.on_minibatch_begin(epoch, step, STEPS, optimizer)
            loss = model(images(epoch, step)[rank::ranks]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, step, STEPS, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, STEPS, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)


def _same(net: nn.Module) -> nn.Module:
    return net


def _twice(net: nn.Module) -> nn.Module:
    return DistributedDataParallel(torch.compile(net, backend="eager"))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, (before, after) in WRAPPINGS.items():
        net = without_norms()
        train(before(net), rank, 2, after)
        torch.save(net.state_dict(), f"{folder}/{name}{rank}.pt")
    distributed.destroy_process_group()


WRAPPINGS: dict[str, tuple[Any, Any]] = {
    "before": (DistributedDataParallel, _same),
    "after": (_same, DistributedDataParallel),
    "compiled": (_same, _twice),
}


@pytest.mark.slow
def test_two_processes_thin_alike_and_end_where_one_process_does(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = without_norms()
    train(alone, 0, 1)
    for wrapping in WRAPPINGS:
        first, second = (torch.load(tmp_path / f"{wrapping}{rank}.pt") for rank in (0, 1))
        assert first["conv1.weight"].shape == (4, 3, 3, 3)
        for name, value in alone.state_dict().items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], copy.deepcopy(value), rtol=1e-9, atol=1e-12)


def test_a_network_with_sync_batchnorm_is_thinned_as_the_other() -> None:
    """In one process SyncBatchNorm is BatchNorm: the same channels go, and the same network is left."""
    left = []
    for convert in (lambda net: net, nn.SyncBatchNorm.convert_sync_batchnorm):
        torch.manual_seed(0)
        model = convert(tiny_net().double())
        train(model, 0, 1)
        left.append(model.state_dict())
    assert left[0]["conv1.weight"].shape == (4, 3, 3, 3)
    torch.testing.assert_close(left[1], left[0], rtol=0, atol=0)

"""What every test shares: two CPU threads at most (one in a parallel run), a seed, tiny networks, its own folder."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the commands that tests start: waiting threads spin
else:
    torch.set_num_threads(2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `data` are skipped where Fashion-MNIST is not installed."""
    if item.get_closest_marker("data") is None:
        return
    from data.Classify_data.find_dataset import FASHION_PLACES

    if not any((ROOT / place / "train-images-idx3-ubyte.gz").is_file() for place in FASHION_PLACES):
        pytest.skip("Fashion-MNIST is not installed: Debian's package dataset-fashion-mnist has it")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goals on latency are measured without pauses."""
    monkeypatch.setattr("compress.goals.latency.PAUSE", 0.0)


@pytest.fixture
def net() -> nn.Module:
    """Two convolutions and a linear layer: `0.weight` (4, 3, 3, 3), `2.weight` (4, 4, 3, 3), `5.weight` (2, 4)."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the present one, for what a run writes; loggers get back the handlers they had."""
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield tmp_path
    for handler in set(logging.getLogger().handlers) - set(handlers):
        handler.close()
    logging.getLogger().handlers[:] = handlers

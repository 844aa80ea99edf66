"""What processes tell each other in each step, seen in a group of one process."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.rotation import progress
from apputils.runs.console import Interrupted
from engine.epoch import nan_guard
from engine.epoch.nan_guard import EVERY, NotFinite
from tests.engine.tiny import TinyTrainer, tiny_trainer


@pytest.fixture
def group(here: Path) -> Iterator[None]:
    """A gloo group that this process is alone in; everything is sent nevertheless."""
    distributed.init_process_group("gloo", init_method=f"file://{here}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """What all-reduces of our own were sent; DistributedDataParallel's do not come by here."""
    found: list[list[float]] = []
    real = distributed.all_reduce

    def all_reduce(tensor: torch.Tensor, *rest: Any) -> Any:
        found.append(tensor.flatten().tolist())
        return real(tensor, *rest)

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    return found


def trained(steps: int) -> TinyTrainer:
    trainer = tiny_trainer("--batchSize=4", "--nEpochs=1", f"--run=of{steps}")
    trainer.steps_limit = steps
    trainer.run()
    return trainer


def test_a_step_sends_one_message_beside_the_gradients(group: None, sent: list[list[float]]) -> None:
    counts = []
    for steps in (2, 7):
        sent.clear()
        trained(steps)
        counts.append(len(sent))
    assert counts[1] - counts[0] == 5
    assert sent.count([-math.inf, 0.0]) == 7  # no bad step, no signal


def test_on_cuda_it_sends_one_in_many_steps(
    group: None, sent: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer("--batchSize=4", "--nEpochs=1")
    trainer.build()
    trainer.nan_guard._waits = False  # as on CUDA
    sent.clear()
    for step in range(2 * EVERY):
        assert trainer.nan_guard.passes((0, step), torch.tensor(1.0), [])
    assert sent == 2 * [[-math.inf, 0.0]]
    monkeypatch.setattr(nan_guard, "max_over_ranks", lambda own: torch.maximum(own, torch.tensor([-3.0, 0.0])))
    trainer.nan_guard.passes((0, 0), torch.tensor(math.nan), [])
    with pytest.raises(NotFinite, match="step 0: the loss was not finite"):  # here it was first
        trainer.nan_guard.before_saving((0, 4))
    trainer.nan_guard.passes((0, 0), torch.tensor(1.0), [])
    with pytest.raises(NotFinite, match="step 3: the loss was not finite"):  # another process's
        trainer.nan_guard.before_saving((0, 4))


def test_a_signal_comes_with_the_message(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = TinyTrainer.compute_loss, []

    def signalled(self: TinyTrainer, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(TinyTrainer, "compute_loss", signalled)
    with pytest.raises(Interrupted, match="SIGINT: saved; --resume=of9"):
        trained(9)
    assert progress(load_checkpoint(Path("checkpoints/of9/last.pt"))) == "epoch 0, 3 of 9 steps"


def test_a_signal_of_another_process_ends_this_one_too(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = torch.tensor([-math.inf, float(signal.SIGTERM)], dtype=torch.float64)
    monkeypatch.setattr(nan_guard, "max_over_ranks", lambda own: torch.maximum(own, told))
    monkeypatch.setattr("engine.signals.max_over_ranks", lambda own: torch.tensor(int(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="SIGTERM: saved") as end:
        trained(4)
    assert end.value.code == 143
    assert progress(load_checkpoint(Path("checkpoints/of4/last.pt"))) == "epoch 0, 1 of 4 steps"

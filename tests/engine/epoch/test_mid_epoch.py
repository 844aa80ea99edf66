"""A run that is saved inside an epoch, dies anywhere and is resumed is the same run."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from apputils.checkpoints.file import load_checkpoint
from compress.errors import UserError
from compress.policies.thinning import ThinningPolicy
from data.dataset import DatasetFromFolder
from engine.environment import random_state, restore_random_state
from engine.epoch.mid_epoch import Middle, can_skip, doubts
from engine.epoch.running_means import Means
from engine.trainer import BaseTrainer
from models.C2SRCNN.solver import C2SRCNNTrainer
from tests.engine.conftest import TrainerOf
from tests.engine.dying import death_of, dies_at, differences, state_of

FILTERS = """\
pruners:
  p: {class: TaylorRankedFilterPruner, desired_sparsity: 0.5, weights: [mid_part.1.weight], batches: 2}
extensions:
  t: {class: FilterRemover}
lr_schedulers:
  lr: {class: ReduceLROnPlateau, mode: min, patience: 0, factor: 0.5}
policies:
  - pruner: {instance_name: p}
    epochs: [1]
  - extension: {instance_name: t}
    epochs: [1]
  - lr_scheduler: {instance_name: lr}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""
EVERY = ("--checkpoint-every=1", "--threads=1", "--ema=0.8")


Moment = tuple[Any, str, int, bool]
FEW: list[Moment] = [
    (Path, "replace", 3, False),  # between the renames of a save inside the first epoch
    (ThinningPolicy, "_thin", 1, True),  # thinned, not trained on
]
MORE: list[Moment] = [
    (C2SRCNNTrainer, "compute_loss", 2, False),  # inside a step
    (C2SRCNNTrainer, "validate", 1, False),
    (torch, "save", 2, False),  # while writing
    (ThinningPolicy, "_thin", 1, False),
    (C2SRCNNTrainer, "validate", 1, True),
    (BaseTrainer, "finish", 1, False),
]


@pytest.mark.parametrize("moments", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"])
def test_dying_at_any_moment_changes_nothing(trainer_of: TrainerOf, moments: list[Moment]) -> None:
    Path("filters.yaml").write_text(FILTERS)
    given = ("--compress=filters.yaml", "--nEpochs=2", *EVERY)
    trainer_of(*given, "--run=whole").run()
    with dies_at(torch, "save", 2):  # the checkpoint of the beginning is there
        assert death_of(trainer_of(*given, "--run=cut").run)
    for owner, name, call, after in moments:
        with dies_at(owner, name, call, after):
            assert death_of(trainer_of("--resume=cut").run), f"{name} was not called {call} times"
    trainer_of("--resume=cut").run()
    assert not differences(state_of("whole"), state_of("cut"))
    assert len(Path("logs/cut/metrics.csv").read_text().splitlines()) == 3


def test_skipped_minibatches_are_not_read(trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with dies_at(C2SRCNNTrainer, "compute_loss", 3):
        assert death_of(trainer_of("--nEpochs=1", "--run=a", *EVERY).run)
    assert load_checkpoint(Path("checkpoints/a/last.pt"))["middle"]["step"] == 2
    read, original = [], DatasetFromFolder.__getitem__
    monkeypatch.setattr(DatasetFromFolder, "__getitem__", lambda self, key: (read.append(key), original(self, key))[1])
    trainer_of("--resume=a").run()
    assert len(read) == 4  # the last of three minibatches


def test_workers_may_change_inside_an_epoch(trainer_of: TrainerOf) -> None:
    trainer_of("--nEpochs=1", "--run=whole", *EVERY).run()
    with dies_at(C2SRCNNTrainer, "compute_loss", 2):
        assert death_of(trainer_of("--nEpochs=1", "--run=cut", *EVERY).run)
    trainer_of("--resume=cut", "--workers=2").run()
    assert not differences(state_of("whole"), state_of("cut"))


def test_another_number_of_steps_is_refused(trainer_of: TrainerOf) -> None:
    with dies_at(C2SRCNNTrainer, "compute_loss", 2):
        assert death_of(trainer_of("--nEpochs=1", "--run=a", *EVERY).run)
    trainer = trainer_of("--resume=a")
    trainer.training_loader = DataLoader(trainer.training_loader.dataset, 3)
    with pytest.raises(UserError, match="after 1 of 3 steps .* in 1 processes; here an epoch has 4 steps in 1"):
        trainer.run()


def _half(loader: DataLoader[Any], steps: int, done: int) -> tuple[list[Any], list[Any]]:
    """What comes after `done` steps, without and with a resume there; random numbers afterwards are the same."""
    middle = Middle(steps)
    batches = middle.groups(loader)
    for _ in range(done):
        next(batches)
    middle.step = done
    state, now = middle.state_dict(), random_state()
    rest = list(batches)
    drawn = torch.rand(1)
    torch.rand(99)
    restore_random_state(now)
    again = Middle.of({"middle": state, "middles": []}, steps, torch.device("cpu"))
    assert again is not None
    resumed = list(again.groups(loader))
    assert torch.equal(torch.rand(1), drawn)
    return rest, resumed


class Noisy(TensorDataset):
    """Samples that draw from torch's generator, as a user's own may."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0] + torch.rand(1)


def test_a_foreign_loader_gives_the_same_minibatches_too() -> None:
    loader = DataLoader(Noisy(torch.arange(12.0)), 2, shuffle=True)
    rest, resumed = _half(loader, 6, 2)
    assert len(rest) == len(resumed) == 4
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, resumed, strict=True))
    assert doubts(loader, torch.device("cpu")) == [
        "the loader's sampler has no `start_at`: minibatches that were trained on are read once more"
    ]


class Stream(IterableDataset):
    """0, 1, 2, ..."""

    def __iter__(self) -> Any:
        return iter(range(6))


def test_what_cannot_be_exact_is_told() -> None:
    cpu, data = torch.device("cpu"), TensorDataset(torch.arange(4))
    assert "iterable" in doubts(DataLoader(Stream(), 2), cpu)[0]
    own = DataLoader(
        data, sampler=RandomSampler(data, generator=torch.Generator()), num_workers=1, persistent_workers=True
    )
    assert not can_skip(own)
    found = "; ".join(doubts(own, torch.device("cuda")))
    for word in ("CUDA", "start_at", "generator of its own", "lasting workers"):
        assert word in found


def test_doubts_are_told_before_training(trainer_of: TrainerOf, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of("--nEpochs=1", "--run=a", "--checkpoint-every=2")
    trainer.training_loader = DataLoader(trainer.training_loader.dataset, 4)
    with dies_at(trainer, "compute_loss", 1), caplog.at_level(logging.WARNING):
        assert death_of(trainer.run)
    assert "saving inside an epoch: the loader's sampler has no `start_at`" in caplog.text


def test_means_go_on() -> None:
    means, again = Means(), Means()
    means.note("loss", torch.tensor(1.0))
    again.load_state_dict(means.state_dict(), torch.device("cpu"))
    again.note("loss", torch.tensor(4.0))
    assert again.values() == {"loss": 2.5}

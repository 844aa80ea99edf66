"""Where a run stands, and what a checkpoint keeps of it."""

from typing import Any

import torch
from torch import nn

from compress.scheduler import CompressionScheduler
from engine.best_epoch import EpochScore
from engine.epoch.mid_epoch import Middle
from engine.progress import Progress
from engine.saved.best_per_width import BestOfEachSize


def progress(epochs: int = 5) -> Progress:
    return Progress(epochs, BestOfEachSize(CompressionScheduler(nn.Linear(1, 1))))


def test_the_newest_update_between_epochs_and_inside_one() -> None:
    at = progress()
    at.epoch = 2
    assert (at.last_update(7), at.where()) == ((1, 6), "after epoch 1")
    at.middle = Middle(7)
    at.middle.step = 3
    assert (at.last_update(7), at.where()) == ((2, 2), "in epoch 2")


def test_the_best_epoch_is_remembered() -> None:
    at = progress()
    taken = []
    for epoch, quality in enumerate((1.0, 3.0, 2.0)):
        at.add_epoch(EpochScore(epoch, True, 0.0, quality), {"loss": 0.0})
        taken.append(at.take_best())
    assert taken == [True, True, False]
    assert at.best == EpochScore(1, True, 0.0, 3.0)


def test_a_run_goes_to_where_it_stood() -> None:
    at, device = progress(), torch.device("cpu")
    at.epoch, at.seconds = 2, 12.5
    at.add_epoch(EpochScore(1, False, 0.25, 1.0), {"loss": 0.5})
    at.take_best()
    at.middle = Middle(7)
    at.middle.step = 3
    state: dict[str, Any] = at.state_dict()
    other = progress(9)  # --nEpochs may be another one now
    other.load_state_dict(state, 7, device)
    assert (other.epochs, other.epoch, other.seconds, other.history) == (9, 2, 12.5, [{"loss": 0.5}])
    assert other.best == at.best
    assert other.middle is not None
    assert (other.middle.step, other.middle.steps) == (3, 7)
    assert not other.finished

"""Where a run stands: which epoch and step come next, what the finished ones gave, how long it took.

`Progress`; a checkpoint holds it beside the `TrainState`.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.best_epoch import EpochScore
from engine.distributed.process_group import of_every_process
from engine.epoch.mid_epoch import Middle
from engine.saved.best_per_width import BestOfEachSize


@dataclass
class Progress:
    """The position of a run, counted from its first epoch on.

    Attributes:
        epochs: length of the run.
        sizes: the best epoch of each width, in a run that thins.
        epoch: the first one that is not finished, counted from 0; the one under way.
        middle: where the epoch under way stands; None between epochs.
        history: a row for each finished epoch.
        best: what the best epoch is judged by; None before the first one is finished.
        score: the same of the newest epoch.
        seconds: of work up to `since`.
        since: when they were counted last, by `time.perf_counter`.
    """

    epochs: int
    sizes: BestOfEachSize
    epoch: int = 0
    middle: Middle | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    best: EpochScore | None = None
    score: EpochScore | None = None
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return self.epoch >= self.epochs

    @property
    def as_it_came(self) -> bool:
        """Whether the run is of no epoch at all: its best network is the one it started from."""
        return self.epochs == 0 and self.best is None

    def last_update(self, steps_per_epoch: int) -> tuple[int, int]:
        """Epoch and step of the newest update, both from 0."""
        return (self.epoch, self.middle.step - 1) if self.middle else (self.epoch - 1, steps_per_epoch - 1)

    def where(self) -> str:
        """The same in words, such as `after epoch 3`."""
        return f"in epoch {self.epoch}" if self.middle else f"after epoch {self.epoch - 1}"

    def add_epoch(self, score: EpochScore, row: dict[str, float]) -> None:
        """Takes up the numbers of an epoch that is validated; `take_best` and the next epoch's number come after."""
        self.score = score
        self.history.append(row)

    def take_best(self) -> bool:
        """Whether the newest epoch is the best so far; it is remembered as such."""
        assert self.score is not None
        is_best = self.best is None or self.score.beats(self.best)
        if is_best:
            self.best = self.score
        return is_best

    def count_seconds(self) -> None:
        """Adds the time since it was counted last."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; every process has its own position in the data."""
        inside = of_every_process(self.middle.state_dict()) if self.middle else None
        return {
            "epoch": self.epoch - 1,  # a checkpoint names the last one that is finished
            "middle": inside[0] if inside else None,
            "middles": inside[1:] if inside else [],
            "history": self.history,
            "planned_epochs": self.epochs,
            "best": dataclasses.asdict(self.best) if self.best else None,
            "sizes": self.sizes.state_dict(),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any], steps_per_epoch: int, device: torch.device) -> None:
        """Goes to where a checkpoint stands; the length stays the one asked for now.

        The random state must be the checkpoint's already: it is what continues in the middle of an epoch.

        Raises:
            UserError: see `Middle.of`.
        """
        self.history = state["history"]
        self.best = EpochScore(**state["best"]) if state["best"] else None
        self.sizes.load_state_dict(state["sizes"])
        self.epoch = state["epoch"] + 1
        self.seconds, self.since = state["seconds"], time.perf_counter()
        self.middle = Middle.of(state, steps_per_epoch, device)

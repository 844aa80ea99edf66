"""The best network of each size, in a run that thins: its checkpoint, and a table of width against quality.

`BestOfEachSize`. Called by the trainer.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import Tensor, nn

from apputils.runs.folders import Run
from apputils.runs.summary import Cost
from compress.io.csv_file import write_records
from compress.policies.thinning import ThinningPolicy
from compress.scheduler import CompressionScheduler
from engine.best_epoch import EpochScore

logger = logging.getLogger("run")


@dataclasses.dataclass(frozen=True)
class Size:
    """The best epoch of the network between two thinnings.

    Attributes:
        channels: outputs of all layers together.
        params: number of parameters.
        macs: of one forward pass.
        epoch: counted from 0.
        quality: the application's metric, more is better.
    """

    channels: int
    params: int
    macs: int
    epoch: int
    quality: float


class BestOfEachSize:
    """Keeps the best checkpoint for each number of thinnings so far; does nothing in a run that does not thin.

    Args:
        scheduler: its recipes show how often the network was thinned.
    """

    def __init__(self, scheduler: CompressionScheduler) -> None:
        self._scheduler = scheduler
        self.thins = any(isinstance(policy, ThinningPolicy) for policy in scheduler.policies)
        self.best: list[Size] = []

    def add(self, model: nn.Module, score: EpochScore, example_inputs: tuple[Tensor, ...]) -> bool:
        """Takes up an epoch; True if it is the best of its size so far (of equals the later one)."""
        if not self.thins:
            return False
        place = len(self._scheduler.recipes)
        if place < len(self.best):
            before = self.best[place]
            if score.quality < before.quality:
                return False
            self.best[place] = dataclasses.replace(before, epoch=score.epoch, quality=score.quality)
            return True
        cost = Cost.of(model, example_inputs)
        new = Size(_channels(model), cost.params, cost.macs, score.epoch, score.quality)
        self.best += [new] * (place + 1 - len(self.best))
        return True

    def path(self, run: Run) -> Path:
        """The checkpoint of the present size: `best_thinned0.pt` before any thinning, then 1, 2, ..."""
        return run.checkpoints / f"best_thinned{len(self._scheduler.recipes)}.pt"

    def rows(self, quality: str) -> list[dict[str, Any]]:
        """One row a size, the dense network first."""
        return [
            {
                "thinned": self._how_often(i),
                "channels": size.channels,
                "width": f"{size.channels / self.best[0].channels:.4f}",
                "parameters": size.params,
                "MACs": size.macs,
                quality: f"{size.quality:.3f}",
                "best epoch": size.epoch,
                "checkpoint": f"best_thinned{i}.pt",
            }
            for i, size in enumerate(self.best)
            if not self._passed_over(i)
        ]

    def _passed_over(self, place: int) -> bool:
        """Whether no epoch ended at a size, since the network was cut twice in one: it has the next one's numbers."""
        if place + 1 == len(self.best):
            return False
        now, then = self.best[place], self.best[place + 1]
        return (now.channels, now.params, now.macs) == (then.channels, then.params, then.macs)

    def _how_often(self, place: int) -> str:
        """Of the recipes up to a size some fuse blocks, which is no thinning."""
        fused = [bool(recipe.get("fused")) for recipe in self._scheduler.recipes[:place]]
        return f"{place - sum(fused)} times" + (", fused" if any(fused) else "")

    def tell(self, run: Run, quality: str) -> None:
        """Logs the table and writes it as `sizes.csv`."""
        if len(self.best) < 2:  # never thinned
            return
        rows = self.rows(quality)
        path = run.results / "sizes.csv"
        write_records(path, rows)
        shown = [{**row, "parameters": f"{row['parameters']:,}", "MACs": f"{row['MACs']:,}"} for row in rows]
        align = ["left", *["right"] * (len(rows[0]) - 2), "left"]
        table = tabulate(shown, headers="keys", disable_numparse=True, colalign=align)
        logger.info("%s\nwritten: %s\n", table, path)

    def state_dict(self) -> list[dict[str, Any]]:
        """The sizes so far, as plain data."""
        return [dataclasses.asdict(size) for size in self.best]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restores them."""
        self.best = [Size(**each) for each in state]


def _channels(model: nn.Module) -> int:
    """Outputs of all convolutions and linear layers."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return sum(module.weight.shape[0] for module in model.modules() if isinstance(module, kinds))

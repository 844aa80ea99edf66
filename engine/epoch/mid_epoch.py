"""Where a run stands inside an epoch, and the minibatches from there on.

`Middle`, what a checkpoint says of it, and what cannot be made again exactly. Called by the trainer.

An epoch begins with the random numbers that the loader draws when it is iterated; after the minibatches that were
trained on already have been left out, the random state of the moment of saving is put back.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from compress.distributed import rank, world_size
from compress.errors import UserError
from engine.environment import random_state, restore_random_state
from engine.epoch.accumulation import grouped
from engine.epoch.running_means import Means


class Middle:
    """The position in the epoch under way.

    Attributes:
        step: optimizer updates that are done; the next minibatch has this number.
        steps: of the whole epoch.
        means: of the losses so far.
        began: random state before the loader was iterated.
        now: random state to continue with, of a run that was resumed inside this epoch.
    """

    def __init__(self, steps: int) -> None:
        self.step, self.steps, self.means = 0, steps, Means()
        self.began = random_state()
        self.now: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {"step": self.step, "steps": self.steps, "means": self.means.state_dict(), "began": self.began}

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], steps: int, device: torch.device) -> "Middle | None":
        """What a checkpoint says of this process; None where its epoch was finished.

        The present random state is the checkpoint's.

        Args:
            checkpoint: its content.
            steps: of an epoch here.
            device: of the losses.

        Raises:
            UserError: an epoch has another number of steps here.
        """
        if checkpoint["middle"] is None:
            return None
        states = [checkpoint["middle"], *checkpoint["middles"]]
        # `middle` is the first process's, `middles` the others'; with
        # fewer than there are processes here the check below raises.
        state = states[min(rank(), len(states) - 1)]
        if state["steps"] != steps or len(states) != world_size():
            raise UserError(
                f"the checkpoint was written after {state['step']} of {state['steps']} steps of an epoch in "
                f"{len(states)} processes; here an epoch has {steps} steps in {world_size()}: inside an epoch a run "
                "continues only with the same data, minibatches and number of processes"
            )
        middle = cls(steps)
        middle.step, middle.began, middle.now = state["step"], state["began"], random_state()
        middle.means.load_state_dict(state["means"], device)
        return middle

    def groups(self, loader: DataLoader[Any], size: int = 1) -> Iterator[list[Any]]:
        """The minibatches of each update that is left; the sampler knows the epoch already.

        Args:
            loader: of the training data.
            size: minibatches in an update.
        """
        if self.now is None:
            return islice(grouped(iter(loader), size), self.steps)
        # iter(loader) draws the workers' base seed: with the state
        # of the epoch's beginning it draws the same one again.
        restore_random_state(self.began)
        skips = can_skip(loader)
        if skips:
            loader.sampler.start_at(self.step * size * int(loader.batch_size or 1))  # type: ignore[attr-defined]
        groups = grouped(iter(loader), size)
        for _ in range(0 if skips else self.step):
            next(groups)
        restore_random_state(self.now)
        return islice(groups, self.steps - self.step)


def can_skip(loader: DataLoader[Any]) -> bool:
    """Whether samples can be left out without being read: the sampler has `start_at`, and batches are its keys."""
    return hasattr(loader.sampler, "start_at") and type(loader.batch_sampler) is BatchSampler


def doubts(loader: DataLoader[Any], device: torch.device) -> list[str]:
    """What of a resume inside an epoch is slow or not exact, a sentence each; [] for our own loaders on a CPU."""
    found = []
    if device.type == "cuda":
        found.append("on CUDA sums come in no fixed order, so a resumed run is the same run up to rounding only")
    if isinstance(loader.dataset, IterableDataset):
        found.append("the data set is an iterable one: it is read again from its beginning, which must give the same")
    elif not can_skip(loader):
        found.append("the loader's sampler has no `start_at`: minibatches that were trained on are read once more")
    if not can_skip(loader) and getattr(loader.sampler, "generator", None) is not None:
        found.append("the loader's sampler has a generator of its own, whose state is not saved: the order will differ")
    if not can_skip(loader) and loader.persistent_workers:
        found.append("random numbers that its lasting workers draw cannot be drawn again; make samples depend on keys")
    return found

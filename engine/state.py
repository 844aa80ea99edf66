"""What training changes, what a checkpoint of a run holds, and how a run is made of it again.

`TrainState`, `gather`, `restore`. Everything saved is plain data and tensors; the structure of the network is its
constructor's arguments.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from apputils.checkpoints import differences
from compress.distributed import rank, world_size
from compress.scheduler import CompressionScheduler
from engine.architectures.zoo import arguments_of
from engine.distributed.process_group import of_every_process, set_apart
from engine.ema import AveragedWeights
from engine.environment import random_state, restore_random_state
from engine.progress import Progress
from engine.resume import RESETS, keep_of_old_schedule, restore_optimizer
from engine.saved.rebuild import load_exact_weights
from engine.saved.run_teachers import RunTeachers
from options.base_options import TrainConfig

logger = logging.getLogger("run")


class Companion(NamedTuple):
    """A network that is trained beside the one that is wanted, such as a GAN's discriminator, with its optimizer."""

    network: nn.Module
    optimizer: Optimizer


@dataclass
class TrainState:
    """What training changes and a checkpoint saves; where the run stands is `Progress`.

    Attributes:
        model: the network.
        optimizer: its optimizer.
        scheduler: of the schedule; without one it has no policies.
        teachers: where the scheduler's teachers come from, and the file that keeps them.
        companions: networks trained beside it, by the names that policies call their optimizers.
        averaged: the average of the network's weights; None without `--ema`.
        schedule_text: the schedule as its file has it; None where there is none.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: CompressionScheduler
    teachers: RunTeachers
    companions: dict[str, Companion] = field(default_factory=dict)
    averaged: AveragedWeights | None = None
    schedule_text: str | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that is trained, by name; the wanted one's is empty."""
        return {"": self.model, **{name: each.network for name, each in self.companions.items()}}

    def companions_parameters(self) -> Iterable[nn.Parameter]:
        """What other optimizers train."""
        return (each for companion in self.companions.values() for each in companion.network.parameters())

    def evaluated_model(self) -> nn.Module:
        """The network that is measured and kept as best: the averaged one with `--ema`, else the trained one."""
        return self.model if self.averaged is None else self.averaged.masked(self.model, self.scheduler.masks)

    def state_dict(self) -> dict[str, Any]:
        """What is the same in every process. The teachers never change and have a file of their own."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "companions": {
                name: {"model": each.network.state_dict(), "optimizer": each.optimizer.state_dict()}
                for name, each in self.companions.items()
            },
            "scheduler": self.scheduler.state_dict(teachers=False),
        }

    def load_state_dict(self, state: Mapping[str, Any], config: TrainConfig) -> None:
        """Restores what `state_dict` gave; `--reset-schedule` and `--reset-optimizer` leave their parts new."""
        if config.reset_schedule:
            keep_of_old_schedule(self.scheduler, state)
            if self.averaged is not None:
                self.averaged.made_after(self.scheduler)
        else:  # first: it thins the network
            self.scheduler.load_state_dict(self.teachers.with_weights(state["scheduler"]))
        load_exact_weights(self.model, state["model"])
        if self.averaged is not None:
            self.averaged.follow(self.scheduler)
            self.averaged.load_state_dict(state["averaged"])
        how = config.reset_optimizer, config.lr if "lr" in config.explicit else None
        restore_optimizer(self.optimizer, state["optimizer"], *how)
        for name, companion in self.companions.items():
            load_exact_weights(companion.network, state["companions"][name]["model"])
            restore_optimizer(companion.optimizer, state["companions"][name]["optimizer"], *how)


def gather(
    state: TrainState, progress: Progress, run: str, config: TrainConfig, task: Mapping[str, Any],
    warnings: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The checkpoint of a run, after an epoch or inside one; every process must call it.

    Args:
        state: what was trained.
        progress: where it stands.
        run: its name.
        config: its options.
        task: what is kept of the task.
        warnings: entries of `RunWarnings`.
    """
    states = of_every_process(random_state())
    return {
        "run": run,
        "optform": config.optform,
        "network": {"class": type(state.model).__name__, "arguments": arguments_of(state.model)},
        **state.state_dict(),
        "schedule": state.scheduler.resolved,
        "schedule_text": state.schedule_text,
        "scheduled_weights": state.scheduler.scheduled_weights,
        "random_state": states[0],
        "random_states": states[1:],
        "processes": world_size(),
        "machine": differences.machine(),
        "options": plain_options(config),
        **progress.state_dict(),
        "warnings": warnings,
        "task": dict(task),
    }


def restore(
    state: TrainState, progress: Progress, checkpoint: Mapping[str, Any], config: TrainConfig, steps_per_epoch: int,
    device: torch.device,
) -> None:  # fmt: skip
    """Puts a run that was freshly built where its checkpoint left off.

    Raises:
        UserError: the checkpoint does not fit, or stands in the middle of an epoch of another length.
    """
    if differs := differences.of_machines(checkpoint.get("machine")):
        logger.warning("%s", differs)
    state.load_state_dict(checkpoint, config)
    _restore_random_state(checkpoint)
    if config.reset_schedule and checkpoint["middle"]:
        logger.warning("the epoch under way begins again, under the new schedule")
        checkpoint = {**checkpoint, "middle": None}
    progress.load_state_dict(checkpoint, steps_per_epoch, device)


def _restore_random_state(checkpoint: Mapping[str, Any]) -> None:
    """This process's; where the run had another number of processes, it is another run from here on."""
    states = [checkpoint["random_state"], *checkpoint.get("random_states", [])]
    if len(states) != world_size():
        logger.warning(
            "the run was trained in %d processes and continues in %d: weights, masks and all states are taken over, "
            "but minibatches are shared out in another way, so the run is not the same to the bit",
            len(states), world_size(),
        )  # fmt: skip
    if rank() < len(states):
        restore_random_state(states[rank()])
    else:
        set_apart(checkpoint["options"]["seed"])


def plain_options(config: TrainConfig) -> dict[str, Any]:
    """The options as plain data, without what is done once, when a run is resumed."""
    done = {"explicit", *RESETS}
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in done}

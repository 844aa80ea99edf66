"""What a checkpoint of a run holds, and how a run is made of it again.

`gather`, `restore`, `rebuild`. Everything is plain data and tensors; the structure of the network is its
constructor's arguments.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from apputils.checkpoints import differences
from apputils.checkpoints.schema import Unfit
from compress.distributed import rank, world_size
from compress.errors import UserError
from compress.quantization.convert import apply
from compress.selectors import same_names
from compress.thinning.recipe import Recipe
from engine.best_epoch import EpochScore
from engine.distributed.process_group import of_every_process, set_apart
from engine.environment import random_state, restore_random_state
from engine.epoch.mid_epoch import Middle
from engine.resume import RESETS, keep_of_old_schedule, restore_optimizer

if TYPE_CHECKING:
    from engine.trainer import BaseTrainer

logger = logging.getLogger("run")


def gather(trainer: "BaseTrainer") -> dict[str, Any]:
    """The checkpoint of a trainer, after an epoch or inside one."""
    states = of_every_process(random_state())
    inside = of_every_process(trainer.middle.state_dict()) if trainer.middle else None
    return {
        "run": trainer.folders.name,
        "optform": trainer.config.optform,
        "network": {"class": type(trainer.model).__name__, "arguments": dict(trainer.model.arguments)},
        **trained(trainer),
        "schedule": trainer.compression_scheduler.resolved,
        "schedule_text": trainer.schedule_text,
        "scheduled_weights": trainer.compression_scheduler.scheduled_weights,
        "random_state": states[0],
        "random_states": states[1:],
        "processes": world_size(),
        "machine": differences.machine(),
        "options": plain_options(trainer.config),
        "epoch": trainer.first_epoch - 1,
        "middle": inside[0] if inside else None,
        "middles": inside[1:] if inside else [],
        "history": trainer.history,
        "warnings": trainer.warnings.entries,
        "planned_epochs": trainer.epochs,
        "best": dataclasses.asdict(trainer.best) if trainer.best else None,
        "sizes": trainer.sizes.state_dict(),
        "task": trainer.task_facts(),
        "seconds": trainer.seconds,
    }


def trained(trainer: "BaseTrainer") -> dict[str, Any]:
    """What training changes, which is the same in every process."""
    return {
        "model": trainer.model.state_dict(),
        "averaged": trainer.averaged.state_dict() if trainer.averaged is not None else None,
        "optimizer": trainer.optimizer.state_dict(),
        "companions": {
            name: {"model": each.network.state_dict(), "optimizer": each.optimizer.state_dict()}
            for name, each in trainer.companions.items()
        },
        "scheduler": trainer.compression_scheduler.state_dict(teachers=False),
    }


@Unfit("the run cannot go on from this checkpoint")
def restore(trainer: "BaseTrainer", checkpoint: dict[str, Any]) -> None:
    """Puts a trainer, freshly built, where the checkpoint left off."""
    config, state = trainer.config, checkpoint["scheduler"]
    trainer.check_task(checkpoint["task"])
    if differs := differences.of_machines(checkpoint.get("machine")):
        logger.warning("%s", differs)
    if config.reset_schedule:
        keep_of_old_schedule(trainer, checkpoint)
    else:  # first: it thins the network
        trainer.compression_scheduler.load_state_dict(trainer.teachers.with_weights(state))
    load_network(trainer.model, checkpoint["model"])
    if trainer.averaged is not None:
        trainer.averaged.follow(trainer.compression_scheduler)
        trainer.averaged.load_state_dict(checkpoint["averaged"])
    how = config.reset_optimizer, config.lr if "lr" in config.explicit else None
    restore_optimizer(trainer.optimizer, checkpoint["optimizer"], *how)
    for name, companion in trainer.companions.items():
        load_network(companion.network, checkpoint["companions"][name]["model"])
        restore_optimizer(companion.optimizer, checkpoint["companions"][name]["optimizer"], *how)
    trainer.history = checkpoint["history"]
    trainer.warnings.put_before(checkpoint.get("warnings", []))
    trainer.best = EpochScore(**checkpoint["best"]) if checkpoint["best"] else None
    trainer.sizes.load_state_dict(checkpoint["sizes"])
    trainer.first_epoch = checkpoint["epoch"] + 1
    trainer.seconds = checkpoint["seconds"]
    _restore_random_state(checkpoint)
    if config.reset_schedule and checkpoint["middle"]:
        logger.warning("the epoch under way begins again, under the new schedule")
        checkpoint = {**checkpoint, "middle": None}
    trainer.middle = Middle.of(checkpoint, trainer.steps_per_epoch(), trainer.device)


def _restore_random_state(checkpoint: dict[str, Any]) -> None:
    """This process's; where the run had another number of processes, it is another run from here on."""
    states = [checkpoint["random_state"], *checkpoint.get("random_states", [])]
    if len(states) != world_size():
        logger.warning(
            "the run was trained in %d processes and goes on in %d: weights, masks and all states are taken over, but "
            "minibatches are shared out in another way, so the run is not the same to the bit",
            len(states), world_size(),
        )  # fmt: skip
    if rank() < len(states):
        restore_random_state(states[rank()])
    else:
        set_apart(checkpoint["options"]["seed"])


@Unfit("the network of this checkpoint cannot be made again")
def rebuild(model: nn.Module, checkpoint: dict[str, Any]) -> nn.Module:
    """A new network becomes the checkpoint's: thinned and quantized alike, with the weights that count for quality.

    Those are the averaged ones if the run kept them.

    Raises:
        UserError: the checkpoint is of another network.
    """
    for recipe in checkpoint["scheduler"]["recipes"]:
        Recipe.from_dict(recipe).apply(model)
    for structure in checkpoint["scheduler"].get("structures", []):
        apply(model, structure)
    averaged = checkpoint["averaged"]
    load_network(model, averaged["model"] if averaged else checkpoint["model"])
    return model


def load_network(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads weights that must fit exactly.

    Raises:
        UserError: names or shapes differ.
    """
    here = {name: getattr(tensor, "shape", None) for name, tensor in model.state_dict().items()}
    meant = same_names(state, here)
    try:
        model.load_state_dict(
            {meant.get(name, name): tensor for name, tensor in state.items()}
        )  # first: modules may take what they lack, such as a counter of older versions
    except RuntimeError as e:
        there = {name: getattr(tensor, "shape", None) for name, tensor in state.items()}
        found = "; ".join(differences.of_shapes(here, there)) or " ".join(str(e).split())[:400]
        raise UserError(f"the checkpoint does not fit this network ({type(model).__name__}): {found}") from e


def plain_options(config: Any) -> dict[str, Any]:
    """The options as plain data, without what is done once, when a run is resumed."""
    done = {"explicit", "thin", *RESETS}
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in done}

"""What a checkpoint of a run holds, and how a run is made of it again.

Here: `gather`, `restore`, `rebuild`, the options of a resumed run. Not here: files (apputils/checkpoint.py).
Everything is plain data and tensors; the structure of the network is its constructor's arguments.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from apputils.kept import load_last
from apputils.runs import run_to_resume
from compress.distributed import rank, world_size
from compress.errors import UserError
from compress.quantization.structure import apply
from compress.thinning.recipe import Recipe
from models.checkpoint_form import Unfit
from models.environment import random_state, restore_random_state
from models.processes import of_every_process, set_apart
from models.ranking import EpochScore

if TYPE_CHECKING:
    from models.base_solver import BaseTrainer

C = TypeVar("C")
logger = logging.getLogger("run")
OF_THE_MACHINE = ("device", "workers", "threads", "histograms", "activation_stats", "keep", "check_ranks")
MAY_CHANGE = frozenset({"optform", "resume", "nEpochs", *OF_THE_MACHINE})


def gather(trainer: "BaseTrainer") -> dict[str, Any]:
    """The checkpoint of a trainer after an epoch."""
    states = of_every_process(random_state())
    return {
        "run": trainer.folders.name,
        "optform": trainer.config.optform,
        "network": {"class": type(trainer.model).__name__, "arguments": dict(trainer.model.arguments)},
        **trained(trainer),
        "schedule": trainer.compression_scheduler.resolved,
        "scheduled_weights": trainer.compression_scheduler.scheduled_weights,
        "random_state": states[0],
        "random_states": states[1:],
        "processes": world_size(),
        "options": plain_options(trainer.config),
        "epoch": trainer.score.epoch,
        "history": trainer.history,
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
    trainer.check_task(checkpoint["task"])
    trainer.compression_scheduler.load_state_dict(
        trainer.teachers.with_weights(checkpoint["scheduler"])
    )  # first: it thins the network
    load_network(trainer.model, checkpoint["model"])
    if trainer.averaged is not None:
        trainer.averaged.follow(trainer.compression_scheduler)
        trainer.averaged.load_state_dict(checkpoint["averaged"])
    trainer.optimizer.load_state_dict(checkpoint["optimizer"])
    for name, companion in trainer.companions.items():
        load_network(companion.network, checkpoint["companions"][name]["model"])
        companion.optimizer.load_state_dict(checkpoint["companions"][name]["optimizer"])
    trainer.history = checkpoint["history"]
    trainer.best = EpochScore(**checkpoint["best"]) if checkpoint["best"] else None
    trainer.sizes.load_state_dict(checkpoint["sizes"])
    trainer.first_epoch = checkpoint["epoch"] + 1
    trainer.seconds = checkpoint["seconds"]
    _restore_random_state(checkpoint)


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
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        lines = " ".join(str(e).split())
        raise UserError(f"the checkpoint does not fit this network: {lines[:400]}") from e


def plain_options(config: Any) -> dict[str, Any]:
    """The options as plain data."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "explicit"}


def resumed(config: C) -> C:
    """The options of a resumed run: the saved ones, with those that may change taken from the command line.

    Raises:
        UserError: there is no such run, or an option was given that would make it another run.
    """
    if config.resume is None:  # type: ignore[attr-defined]
        return config
    checkpoint = load_last(run_to_resume(config.resume))  # type: ignore[attr-defined]
    saved = checkpoint["options"]
    for name in sorted(config.explicit - MAY_CHANGE):  # type: ignore[attr-defined]
        if getattr(config, name) != saved.get(name):
            raise UserError(
                f"--{name}={getattr(config, name)}: the run {config.resume} was trained with {saved.get(name)}, "  # type: ignore[attr-defined]
                f"and a resumed run is the same run; leave it out, or start a new run. May change: "
                + ", ".join(sorted(MAY_CHANGE - {"optform", "resume"}))
            )
    if checkpoint["optform"] != config.optform:  # type: ignore[attr-defined]
        raise UserError(f"the run is of --optform={checkpoint['optform']}; give that")
    changed = {name: getattr(config, name) for name in config.explicit & MAY_CHANGE}  # type: ignore[attr-defined]
    return dataclasses.replace(config, **{**saved, **changed})  # type: ignore[type-var]

"""What `train.py` does: train, or only show, try or write a schedule.

The choice. The application is given by the entry point, so that nothing here knows any.
"""

import dataclasses
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from apputils.runs.seed_groups import group_of
from compress.analysis.drawing.plan import draw_plan
from compress.analysis.listings.channel_groups import group_tables
from compress.analysis.listings.weights import weight_list
from compress.config.sections import QUANTIZE_AFTER
from compress.config.templates.new_schedule import new_schedule
from compress.errors import UserError
from compress.thinning.trials.trial import prunable_graph
from engine.architectures.listing import architecture_table
from engine.architectures.zoo import Zoo
from engine.commands.seeds import train_seeds
from engine.commands.smoke import smoke
from engine.distributed.elastic_restart import run_to_go_on_with
from engine.distributed.process_group import first_of_machine_first, in_one_process, process_group
from engine.environment import choose_device
from engine.goals.verdict import check_goals
from engine.resume import resumed, take_last
from engine.session import RunSession
from engine.trainer import BaseTrainer
from options.applications import Application
from options.base_options import TrainConfig

logger = logging.getLogger("run")


def act(application: Application, config: TrainConfig) -> None:
    """Does what the options ask for; trains unless they name something else.

    Raises:
        UserError: something the user can mend.
        GoalMissed: the run is finished, and a goal of its schedule is not met.
    """
    device = choose_device(config.device)  # first: a missing device is reported before data are loaded
    for name, mode in MODES.items():
        if getattr(config, name):  # one at most, see options/rules.py
            in_one_process(f"--{name.replace('_', '-')}")
            mode(application, config)
            return
    train = partial(_train, application, device)
    if config.seeds is not None or group_of(config.resume) is not None:
        in_one_process("a group of seeds")
        check_goals(train_seeds(config, train))
    else:
        check_goals(train(config))


def _train(
    application: Application,
    device: torch.device,
    config: TrainConfig,
    check: Callable[[BaseTrainer], None] | None = None,
) -> dict[str, Any]:
    """Trains or resumes one run; returns its summary. `check` is called with the trainer before anything starts."""
    with process_group(device), RunSession() as session:
        config = dataclasses.replace(config, resume=config.resume or run_to_go_on_with())
        checkpoint = take_last(config.resume, session) if config.resume else None  # read once, for both uses
        config = resumed(config, checkpoint)
        with first_of_machine_first(), session.warnings:
            loaders = application.load("training_loaders")(config)
        trainer: BaseTrainer = application.load("trainer")(config, *loaders)
        if check is not None:
            check(trainer)
        return trainer.run(session, checkpoint)


def _built(application: Application, config: TrainConfig) -> BaseTrainer:
    """A trainer with its network and scheduler, without data."""
    trainer: BaseTrainer = application.load("trainer")(config, None, None)
    trainer.build()
    return trainer


def _plan(application: Application, config: TrainConfig) -> None:
    trainer = _built(application, config)
    plan = trainer.compression_scheduler.preview(trainer.progress.epochs, trainer.optimizers)
    sys.stdout.write(f"{plan}\n")
    if name := trainer.compression_scheduler.resolved.get(QUANTIZE_AFTER):
        sys.stdout.write(f"after training {name} quantizes the best network\n")
    path = Path(f"{config.run or config.stem()}-plan.png")  # here: a plan is not a run and takes no run's name
    draw_plan(plan, path)
    sys.stdout.write(f"drawn: {path}; nothing was trained\n")


def _smoke(application: Application, config: TrainConfig) -> None:
    trainer = application.load("trainer")(config, *application.load("training_loaders")(config))
    smoke(trainer)


def _list_weights(application: Application, config: TrainConfig) -> None:
    sys.stdout.write(weight_list(_built(application, config).model) + "\n")


def _list_groups(application: Application, config: TrainConfig) -> None:
    trainer = _built(application, config)
    sys.stdout.write(group_tables(prunable_graph(trainer.model, trainer.example_inputs())) + "\n")


def _list_archs(application: Application, config: TrainConfig) -> None:
    if not application.architectures:
        raise UserError(f"--optform={application.name} has one network; there is nothing to list")
    zoo: Zoo = application.load("architectures")
    given = {name: getattr(config, name, value) for name, value in zoo.usual.items()}
    default = type(config)().arch  # type: ignore[attr-defined]
    sys.stdout.write(architecture_table(zoo, given, default) + "\n")


def _new_schedule(application: Application, config: TrainConfig) -> None:
    trainer, family = _built(application, config), config.new_schedule
    assert family is not None, "the mode that it asks for"
    command, inputs = config.schedule_command(), trainer.example_inputs()
    text = new_schedule(family, trainer.model, command, trainer.gives_logits, inputs)
    sys.stdout.write(text)


MODES: dict[str, Callable[[Application, TrainConfig], None]] = {
    "plan": _plan,
    "smoke": _smoke,
    "list_weights": _list_weights,
    "list_groups": _list_groups,
    "list_archs": _list_archs,
    "new_schedule": _new_schedule,
}

"""`--start-from RUN`: a new run that starts from the best weights of a dense one."""

from typing import Any

from torch import nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import find_run
from compress.errors import UserError
from engine.architectures.zoo import arguments_of
from engine.saved.rebuild import rebuild
from options.base_options import TrainConfig


def start_from(model: nn.Module, config: TrainConfig) -> None:
    """Loads the weights of `config.start_from` into a new network, in place.

    Raises:
        UserError: there is no such run, or it is of another application or network, thinned or quantized.
    """
    run = find_run(config.start_from)
    checkpoint = check_run(load_checkpoint(run.best), run.best)
    if problem := _unfit(model, checkpoint, config):
        raise UserError(f"--start-from={run.name}: {problem}; nothing was started")
    rebuild(model, checkpoint)


def _unfit(model: nn.Module, checkpoint: dict[str, Any], config: TrainConfig) -> str:
    if checkpoint["optform"] != config.optform:
        return f"it is a run of --optform={checkpoint['optform']}, not of {config.optform}"
    scheduler = checkpoint["scheduler"]
    if scheduler["recipes"] or scheduler.get("structures"):
        return "its network is thinned or quantized; start from a dense run, or continue it with --resume"
    made, here = checkpoint["network"]["arguments"], arguments_of(model)
    return "" if made == here else f"its network was made with {made}, this one with {here}"

"""Which checkpoint `test.py` is about."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import compress.config.families  # noqa: F401  a checkpoint names fake quantizers, which are registered there
from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_exported, check_run
from apputils.runs.folders import find_run, newest_runs
from compress.errors import UserError
from compress.export.exported_model import description_of, is_exported
from engine.environment import choose_device
from options.base_options import TestConfig

Config = TypeVar("Config", bound=TestConfig)


def find_subject(opt: Config) -> tuple[Config, dict[str, Any]]:
    """The test options with `model` and `optform` filled in, and the checkpoint.

    `--model` names the file; else it is the best checkpoint of `--run`, else of the newest run (of `--optform`).

    Raises:
        UserError: there is no such checkpoint, it belongs to another application than `--optform`, or there is no such
            device as `--device`.
    """
    choose_device(opt.device)  # first: a missing device is reported before data are loaded
    if opt.model is None and opt.run is None and opt.optform is not None:
        path, checkpoint = _newest_of(opt.optform)
    else:
        path = Path(opt.model) if opt.model is not None else find_run(opt.run).best
        checkpoint = load_subject(path)
    return about(opt, path, checkpoint), checkpoint


def about(opt: Config, path: Path, checkpoint: dict[str, Any]) -> Config:
    """The test options with `model` and `optform` of a checkpoint.

    Raises:
        UserError: it belongs to another application than `--optform`.
    """
    if opt.optform not in (None, checkpoint["optform"]):
        raise UserError(f"{path} is of --optform={checkpoint['optform']}, not {opt.optform}")
    return dataclasses.replace(opt, model=str(path), optform=checkpoint["optform"])


def load_subject(path: Path) -> dict[str, Any]:
    """The checkpoint at a path, or what an exported file keeps of its checkpoint.

    Raises:
        UserError: see `load_checkpoint` and `description_of`.
    """
    if is_exported(path):
        return check_exported(description_of(path), path)
    return check_run(load_checkpoint(path), path)


def _newest_of(optform: str) -> tuple[Path, dict[str, Any]]:
    for run in newest_runs():
        checkpoint = load_subject(run.best)
        if checkpoint["optform"] == optform:
            return run.best, checkpoint
    raise UserError(f"no run in checkpoints/ is of --optform={optform}; train one first")

"""The options of a run that is resumed, and what `--reset-optimizer` and `--reset-schedule` do.

Which options may differ from the run's own, and the two ways to continue deliberately with another run. Called by
engine/commands/train.py and the trainer.
"""

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from torch.optim import Optimizer

from apputils.checkpoints import differences
from apputils.checkpoints.file import Damaged, load_checkpoint
from apputils.checkpoints.rotation import load_last
from apputils.checkpoints.schema import check_resumable
from apputils.runs.folders import Run, check_owner, run_to_resume
from apputils.runs.writable import check_places
from compress.distributed import is_first
from compress.errors import UserError, printable
from compress.io.files import read_text
from compress.policies.thinning import ThinningPolicy
from compress.scheduler import CompressionScheduler
from engine.saved.saved_options import usable
from engine.session import RunSession
from options.base_options import TrainConfig
from options.own_network import same_class

C = TypeVar("C", bound=TrainConfig)
logger = logging.getLogger("run")
OF_THE_MACHINE = (
    "device", "workers", "threads", "histograms", "activation_stats", "keep", "checkpoint_every", "on_nan",
    "check_ranks", "sync_batchnorm", "compile",
)  # fmt: skip
RESETS = {  # the option that lets others change -> those
    "reset_optimizer": ("lr", "optimizer", "momentum", "weight_decay", "decay_all"),
    "reset_schedule": ("compress", "strict", "unused"),
    "thin": ("unused",),
}
MAY_CHANGE = frozenset({"optform", "resume", "nEpochs", *OF_THE_MACHINE, *RESETS})


def last_checkpoint(run: Run) -> dict[str, Any]:
    """The newest whole checkpoint of a run, in the form that it can continue from.

    Raises:
        UserError: there is none, or parts are missing or of another kind; all are named.
    """
    return check_resumable(load_last(run), run.name)


def check_best_files(run: Run) -> None:
    """Whether the best checkpoints, which the end of a run is measured on, are its own.

    Raises:
        UserError: one is of another run.
    """
    for path in sorted(run.checkpoints.glob("best*.pt")):
        with suppress(Damaged):  # it is written again where a better epoch comes
            check_owner(load_checkpoint(path).get("run"), path)


def take_last(name: str, session: RunSession) -> dict[str, Any]:
    """Makes a run that is resumed this process's own, then reads where it left off.

    Raises:
        UserError: there is no such run, another process has it, or it cannot be resumed.
    """
    run = run_to_resume(name)
    if is_first():
        check_places(name)
    session.take(run)
    return last_checkpoint(session.run)


def resumed(config: C, checkpoint: dict[str, Any] | None = None) -> C:
    """The options of a resumed run: the saved ones, with those that may change taken from the command line.

    Args:
        config: the options given.
        checkpoint: the run's last one, if it has been read already; None reads it.

    Raises:
        UserError: there is no such run, its checkpoint cannot be resumed, or options were given that would make
            it another run.
    """
    given = config
    if given.resume is None:
        return config
    if checkpoint is None:
        checkpoint = last_checkpoint(run_to_resume(given.resume))
    if checkpoint["optform"] != given.optform:
        raise UserError(f"the run is of --optform={printable(checkpoint['optform'])}; give that")
    saved = usable(checkpoint["options"], type(config), given.resume)
    may_change = MAY_CHANGE.union(*(names for reset, names in RESETS.items() if getattr(given, reset)))
    explicit = {name: getattr(given, name) for name in given.explicit}
    if same_class(str(explicit.get("arch")), str(saved.get("arch"))):  # its file may have moved
        explicit["arch"] = saved["arch"]
    found = differences.of_options(explicit, saved, may_change)
    if found:
        raise UserError(_refusal(given.resume, found))
    if given.compress is not None and explicit.keys() >= {"compress", "resume"} and not given.reset_schedule:
        _tell_of_edits(given.compress, checkpoint.get("schedule_text"))
    changed = {name: value for name, value in explicit.items() if name in may_change} | {"resume": given.resume}
    if given.reset_schedule:
        changed["compress"] = given.compress
    return dataclasses.replace(config, **{**saved, **changed})


def schedule_text(config: TrainConfig, checkpoint: dict[str, Any] | None) -> str | None:
    """The schedule as its file has it, comments included; None where there is no file that can be read."""
    if checkpoint is not None and not config.reset_schedule:
        return checkpoint.get("schedule_text")
    return _text(config.compress) if config.compress else None


def _text(file: str) -> str | None:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError):
        return None  # building the schedule reports it


def _tell_of_edits(file: str, saved: str | None) -> None:
    """Says how a schedule's file differs from what the run was started with; nothing where it does not."""
    text = _text(file)
    changes = differences.of_schedules(text, saved) if text is not None and saved is not None else None
    if changes == []:
        return
    told = ", which differs from the file now:\n  " + "\n  ".join(changes) + "\n" if changes else "; "
    logger.warning("the schedule is the run's own, from its checkpoint%s--reset-schedule reads the file again", told)


def _refusal(run: str, found: dict[str, str]) -> str:
    ways = {reset: [name for name in names if name in found] for reset, names in RESETS.items()}
    hints = [f"--{reset.replace('_', '-')} lets {', '.join(names)} change" for reset, names in ways.items() if names]
    allowed = ", ".join(sorted(MAY_CHANGE - {"optform", "resume", *RESETS}))
    return (
        f"the run {run} cannot continue as another run:\n  "
        + "\n  ".join(found.values())
        + "\nA resumed run is the same "
        f"run: leave them out, or start a new run. May change: {allowed}" + "".join(f". {hint}" for hint in hints)
    )


def keep_of_old_schedule(scheduler: CompressionScheduler, checkpoint: Mapping[str, Any]) -> None:
    """After `shape_as`: what the old schedule has done to the network stays done, masks included.

    Args:
        scheduler: of the new schedule.
        checkpoint: of the old one.

    Raises:
        UserError: the new schedule would thin a network that the old one has quantized.
    """
    state = checkpoint["scheduler"]
    for policy in scheduler.policies:
        if isinstance(policy, ThinningPolicy) and policy.window.last > checkpoint["epoch"]:
            policy.refuse_quantized(state.get("structures", []))
    scheduler.recipes[:] = state["recipes"]
    scheduler.structures[:] = state.get("structures", [])
    scheduler.masks.load_state_dict(state["masks"])
    scheduler.masks.zeroed = set(state.get("zeroed", ()))


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any], reset: bool, rate: float | None) -> None:
    """The saved optimizer; with `reset` a new one that only continues with the saved learning rates.

    Args:
        optimizer: new.
        state: of the checkpoint.
        reset: whether its moments are forgotten.
        rate: that was given for the new one, None to continue with the saved ones.

    Raises:
        UserError: the groups of parameters differ.
    """
    groups = state["param_groups"]
    if reset:
        for group, saved in zip(optimizer.param_groups, groups, strict=False):
            # initial_lr as well: schedulers compute from it, not from the present rate.
            group.update({key: saved[key] for key in ("lr", "initial_lr") if key in saved and rate is None})
        return
    here = [len(group["params"]) for group in optimizer.param_groups]
    there = [len(group["params"]) for group in groups]
    if here != there:
        raise UserError(
            f"the checkpoint's optimizer has groups of {there} parameters, here there are groups of {here}: another "
            "schedule or network; --reset-optimizer starts it anew"
        )
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as e:
        raise UserError(f"the checkpoint's optimizer does not fit ({e}); --reset-optimizer starts it anew") from e

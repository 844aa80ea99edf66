"""Whether the runs of a group of seeds are one training that differs in the seed alone.

`check_there`, `check_members`, `check_like_others`. A member is a run like any other: it can be removed, resumed or
trained by hand.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import Run
from apputils.runs.seed_groups import SeedGroup
from compress.errors import UserError, shown
from data.data_fingerprint import described, difference
from engine.application import TrainedApplication
from engine.resume import OF_THE_MACHINE
from engine.saved.run_record import RunRecord
from options.option import dashed

OF_A_MEMBER = frozenset({"seeds", "seed", "run", "resume"})  # options that differ between members, or are the group's
MOST_SHOWN = 100  # characters of a value


def check_there(group: SeedGroup) -> None:
    """Whether the networks of the runs that were begun are still there.

    Raises:
        UserError: checkpoints of a run are gone, and neither testing nor `--resume` can do anything with it.
    """
    gone = [run for run in group.members.values() if _is_gone(run)]
    if gone:
        files = ", ".join(str(run.best if run.checkpoints.is_dir() else run.checkpoints) for run in gone)
        raise UserError(f"the group {group.name} has runs whose network is gone: {files}\n{_anew(group, gone)}")


def _is_gone(run: Run) -> bool:
    if run.best.is_file():
        return False
    finished = (run.results / "summary.json").is_file()
    return finished or (run.logs.exists() and not run.kept_files())


def check_members(group: SeedGroup) -> None:
    """Whether those runs of a group that have a network were trained with its options, schedule and data.

    Raises:
        UserError: one was not; each difference is named. Or a checkpoint cannot be read.
    """
    found = {seed: _checkpoint(run) for seed, run in group.members.items() if _has_network(run)}
    faults = {seed: [*_options(group, seed, each), *_schedule(group, each)] for seed, each in found.items()}
    if found:
        first, *others = found
        for seed in others:
            faults[seed] += _task(found[seed]["task"], found[first]["task"], group.members[first].name)
    other = [seed for seed, each in faults.items() if each]
    if other:
        lines = [f"{group.members[seed].name}: {fault}" for seed in other for fault in faults[seed]]
        raise UserError(
            "\n  ".join([f"these runs were not trained as the group {group.name} was, and are no seeds of it:", *lines])
            + f"\n{_anew(group, [group.members[seed] for seed in other])}; a run can also be named alone"
        )


def check_like_others(group: SeedGroup, trainer: TrainedApplication) -> None:
    """Whether a new run of a group has the data, classes and the like of a run that is there; of the first one.

    Args:
        group: its runs.
        trainer: of the new one, before it starts.

    Raises:
        UserError: it has others.
    """
    first = next((run for run in group.members.values() if _has_network(run)), None)
    if first is None:
        return
    try:
        trainer.check_task(_checkpoint(first)["task"])
    except UserError as e:
        raise UserError(f"{first.name}, of the group {group.name}: {e}") from e


def _has_network(run: Run) -> bool:
    return run.best.is_file() or bool(run.kept_files())


def check_finished(group: SeedGroup) -> None:
    """Whether each run of a group was trained to its end.

    Raises:
        UserError: one was not; what to type is said.
    """
    runs = [run for run in group.members.values() if run.best.is_file()]
    missing = [run.name for run in group.members.values() if run not in runs]
    words = [f"there is no network of {', '.join(missing)} yet"] * bool(missing)
    for run in runs:
        record = RunRecord.of(run, run.best, _checkpoint(run))
        if record.cut_short:
            words.append(f"{run.name} has trained {record.trained_epochs} of its {record.planned_epochs} epochs")
    if words:
        raise UserError(
            f"of the group {group.name} {'; '.join(words)}; python train.py --optform={group.optform} "
            f"--resume={group.name} trains on; or name one run that is there"
        )


def _checkpoint(run: Run) -> dict[str, Any]:
    path = run.best if run.best.is_file() else run.kept_files()[0]
    return check_run(load_checkpoint(path), path)


def _options(group: SeedGroup, seed: int, checkpoint: Mapping[str, Any]) -> list[str]:
    """The options that differ from the group's; those of the machine may."""
    saved = checkpoint["options"]
    may = {*OF_A_MEMBER, *OF_THE_MACHINE} | ({"amp"} if saved.get("precision") == "auto" else set())
    wanted = {name: value for name, value in group.options.items() if name in saved and name not in may} | {
        "seed": seed
    }
    return [
        f"--{dashed(name)}={_short(saved.get(name))}, and the group's is {_short(value)}"
        for name, value in wanted.items()
        if _text(saved.get(name)) != _text(value)
    ]


def _schedule(group: SeedGroup, checkpoint: Mapping[str, Any]) -> list[str]:
    same = checkpoint.get("schedule_text", group.schedule_text) == group.schedule_text
    return [] if same else ["the text of its schedule is another one"]


def _task(here: Mapping[str, Any], first: Mapping[str, Any], name: str) -> list[str]:
    """How data, classes and the like differ from those of the group's first run; a folder of data may have moved."""
    faults = [
        f"{key} {_short(here[key])}, and {_short(first[key])} in {name}"
        for key in here
        if key in first and key != "data" and _text(here[key]) != _text(first[key])
    ]
    own, wanted = here.get("data"), first.get("data")
    if own and wanted and (other := difference(own, wanted)) is not None:
        faults.append(f"trained on {described(own)}, and {name} on {described(wanted)}{other}")
    return faults


def _anew(group: SeedGroup, runs: Iterable[Run]) -> str:
    folders = shlex.join(
        str(folder) for run in runs for folder in (run.logs, run.results, run.checkpoints) if folder.exists()
    )
    return f"to train anew: rm -r {folders}, then python train.py --optform={group.optform} --resume={group.name}"


def _text(value: Any) -> str:
    """For comparison: the group's options were written as JSON, where a tuple is a list."""
    return json.dumps(value, default=str, sort_keys=True)


def _short(value: Any) -> str:
    return "none" if value is None else shown(value) if isinstance(value, str) else _text(value)[:MOST_SHOWN]

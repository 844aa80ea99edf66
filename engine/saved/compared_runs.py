"""Which networks `test.py --compare` and `--benchmark` mean: runs, groups of seeds and checkpoints by their names."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apputils.runs.folders import Run, find_run, newest_runs
from apputils.runs.seed_groups import group_of
from compress.errors import UserError
from compress.export.exported_model import is_exported
from engine.saved.find_checkpoint import load_subject
from engine.saved.group_members import check_finished, check_members, check_there
from options.base_options import TestConfig

ALL = "all"


@dataclass(frozen=True)
class Named:
    """A checkpoint that is compared.

    Attributes:
        name: as the table calls it.
        path: of the file.
        checkpoint: its content.
        seeds: of a group of seeds, whose first run the file is of: seed -> run.
    """

    name: str
    path: Path
    checkpoint: dict[str, Any]
    seeds: Mapping[int, Run] = field(default_factory=dict)

    @property
    def optform(self) -> str:
        """Its application."""
        return str(self.checkpoint["optform"])


def find_subjects(opt: TestConfig) -> tuple[list[Named], list[str]]:
    """The checkpoints that are meant, of one application, and what was left out, in words.

    Raises:
        UserError: there is no such run or file, one is named twice, or they are of several applications.
    """
    if opt.compare == (ALL,):
        return _all_runs(opt.optform)
    words = opt.compare or [opt.model or find_run(opt.run).name]
    if ALL in words:
        raise UserError(f"--compare {' '.join(words)}: give `all` alone, or name what to compare; nothing was measured")
    found = [_named(word) for word in words]
    _check_different(found)
    kinds = {each.optform: [one.name for one in found if one.optform == each.optform] for each in found}
    if len(kinds) > 1 or opt.optform not in (None, *kinds):
        listed = "; ".join(f"of --optform={optform}: {', '.join(names)}" for optform, names in kinds.items())
        raise UserError(
            f"metrics of different applications are not mixed, and these are {listed}"
            + (f", not of {opt.optform}" if opt.optform not in (None, *kinds) else "")
            + "; compare those of one application; nothing was measured"
        )
    return found, []


def _check_different(found: Sequence[Named]) -> None:
    """Whether each one is another network: beside itself a network shows nothing."""
    first: dict[tuple[Path, bool], Named] = {}
    for each in found:
        earlier = first.setdefault((each.path.resolve(), bool(each.seeds)), each)
        if earlier is not each:
            same = f"{each.name} is named twice" if earlier.name == each.name else f"{each.name} is {earlier.name}"
            raise UserError(
                f"--compare: {same}, and beside itself a network shows no difference; name another one; "
                "nothing was measured"
            )


def _all_runs(optform: str | None) -> tuple[list[Named], list[str]]:
    """Every run of one application: the one given, or that of the newest run; the oldest first.

    One that cannot be read is left out, and said: nobody named it.
    """
    runs: list[Named] = []
    notes: list[str] = []
    for run in newest_runs():
        try:
            runs.append(subject_of_run(run.name))
        except UserError as e:
            notes.append(f"{run.name} is left out, as it cannot be read: {e}")
    if not runs:
        raise UserError("\n  ".join(["no run in checkpoints/ can be read:", *notes]))
    wanted = optform or runs[0].optform
    others = sorted({run.optform for run in runs} - {wanted})
    chosen = [run for run in reversed(runs) if run.optform == wanted]
    if not chosen:
        raise UserError(f"no run in checkpoints/ is of --optform={wanted}; there are runs of {', '.join(others)}")
    left = len(runs) - len(chosen)
    if left:
        notes.append(
            f"{left} runs of other applications ({', '.join(others)}) are left out: their metrics are not mixed"
        )
    return chosen, notes


def _named(word: str) -> Named:
    """A run by its name, or a checkpoint by its path."""
    if is_exported(word):
        raise UserError(
            f"--compare {word}: exported files are not compared by themselves; name the run, whose network is exported "
            "and timed in onnxruntime too; nothing was measured"
        )
    path = Path(word)
    group = group_of(word)
    if group is not None:
        check_there(group)
        check_finished(group)
        check_members(group)
        return dataclasses.replace(subject_of_run(group.members[group.seeds[0]].name), name=word, seeds=group.members)
    return Named(word, path, load_subject(path)) if path.is_file() else subject_of_run(word)


def subject_of_run(name: str) -> Named:
    """The best checkpoint of a run, or its last where it has no best one yet."""
    run = find_run(name)
    path = run.best if run.best.is_file() else run.last
    return Named(name, path, load_subject(path))

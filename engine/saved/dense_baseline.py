"""The dense network's quality beside the compressed one's, where a dense network is known.

Which networks count as the dense one (teachers of the run), their place in a summary, and what to type where there is
none.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import Run, newest_runs
from compress.distillation.teachers import SELF, Teachers
from compress.errors import UserError
from compress.io.files import read_text
from engine.saved.run_teachers import RunTeachers, saved_teachers

logger = logging.getLogger("run")
COMPRESSING = ("pruners", "regularizers", "quantizers", "extensions")  # sections of a schedule that is not dense
MOST_RUNS = 20  # newest ones that are looked at for a dense one

Quality = Mapping[str, Mapping[str, float]]


def dense_teachers(teachers: Teachers, sources: RunTeachers) -> dict[str, nn.Module]:
    """What reports call it -> network, of the teachers that answer the run's own task, `self` first.

    A network that its library has trained, perhaps for other classes, does not count.
    """
    names = sorted((name for name in teachers.names if sources.of_the_task(name)), key=lambda name: name != SELF)
    return {title_of(name): teachers.find(name, nn.Identity()) for name in names}


def dense_of_checkpoint(run: Run, checkpoint: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The same out of the files of a run; none where they cannot be read, which is logged."""
    if not checkpoint["scheduler"].get("teachers"):
        return {}
    try:
        found = saved_teachers(run, checkpoint)
    except UserError as e:
        logger.warning("the run's teachers cannot be measured: %s", e)
        return {}
    return {title_of(name): network for name, network in sorted(found.items(), key=lambda each: each[0] != SELF)}


def title_of(teacher: str) -> str:
    """What reports call a teacher's column; `self` is the network itself before it was compressed."""
    return "dense network (teacher self)" if teacher == SELF else f"teacher {Path(teacher).name}"


def beside_dense(quality: Quality, dense: Mapping[str, Quality]) -> dict[str, dict[str, float]]:
    """Quality with a column for each dense network.

    Args:
        quality: metric -> {baseline's name: value, "model": value}.
        dense: name -> the same of that network.
    """
    return {
        metric: {
            **{name: value for name, value in values.items() if name != "model"},
            **{name: found[metric]["model"] for name, found in dense.items()},
            "model": values["model"],
        }
        for metric, values in quality.items()
    }


def how_to_get_dense(run: str, checkpoint: Mapping[str, Any]) -> str:
    """What to type to have a dense network's quality beside a run's."""
    found = _dense_run(checkpoint)
    text = f"how far the dense network is above: python test.py --run={run} --baseline={found or 'RUN'}"
    return text if found else f"{text}, RUN a run of the same network that was trained without compression"


@dataclass(frozen=True)
class DenseQuality:
    """The trained dense network that goals refer to.

    Attributes:
        name: what reports call it.
        quality: metric -> value, on the same data.
    """

    name: str
    quality: Mapping[str, float]


def dense_quality(
    checkpoint: Mapping[str, Any],
    known: Mapping[str, Mapping[str, float]],
    measure: Callable[[dict[str, Any]], Mapping[str, float]],
) -> DenseQuality | str:
    """The dense network of a run: the one it started from, else a dense teacher, else the newest dense run.

    Args:
        checkpoint: of the run.
        known: name -> metrics of the dense teachers, `self` first.
        measure: the metrics of another run's checkpoint.

    Returns:
        or why there is none, in words.
    """
    started = checkpoint["options"].get("start_from")
    if started is None and known:
        name, quality = next(iter(known.items()))
        return DenseQuality(name, quality)
    run = started or _dense_run(checkpoint)
    if run is None:
        return (
            "no dense network to compare with: train one (the same command without --compress), and start from it by "
            "--start-from=RUN"
        )
    best = Run(run).best
    return DenseQuality(f"run {run}", measure(check_run(load_checkpoint(best), best)))


def _dense_run(checkpoint: Mapping[str, Any]) -> str | None:
    """The newest other run of the same network on the same data without compression."""
    try:
        runs = newest_runs()[:MOST_RUNS]
    except UserError:
        return None
    for run in runs:
        if run.name != checkpoint["run"] and is_dense(run):
            try:
                other = check_run(load_checkpoint(run.best), run.best)
            except UserError:
                continue
            if all(other[key] == checkpoint[key] for key in ("optform", "network", "task")):
                return run.name
    return None


def is_dense(run: Run) -> bool:
    """Whether the schedule that a run was trained under has nothing that compresses."""
    try:
        schedule = yaml.safe_load(read_text(run.logs / "schedule.yaml"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(schedule, dict) and not any(schedule.get(section) for section in COMPRESSING)

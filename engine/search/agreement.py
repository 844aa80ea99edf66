"""What all workers of a study share: `studies/NAME/study.json`.

`started` writes it, `resumed` reads it, `agreed_rungs` adds the rungs, which the first worker chooses.
"""

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.rotation import load_last
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import Run, is_plain_name, newest_runs
from compress.analysis.latency_model.carried import read_model
from compress.config.errors.faults import Report
from compress.config.goals import load_goals
from compress.errors import UserError, did_you_mean, nearest, shown
from compress.goals.device import problem_with_device
from compress.goals.goal import LATENCY, Goal
from compress.io.files import read_text, write_json
from engine.goals.training import higher_is_better
from engine.resume import resumed as resumed_options
from engine.saved.dense_baseline import is_dense
from engine.search.space import BYTES, faults_of_knobs
from engine.search.subject import MODEL, Subject
from options.applications import find_application
from options.option import dashed
from options.own_network import to_type_again
from options.search_options import SearchConfig

logger = logging.getLogger("search")
STUDIES = Path("studies")
HELD = ("version", "goals", "search")  # in a file of goals
KEPT = ("optform", "seed", "threads", "sampler")  # a worker that joins takes these from the study
WHOLE_TRAININGS = 6  # fine-tunings to the last rung that the time should allow, about
LONGEST_RUNG = 32
WINNER = 2  # times the last rung's epochs
RESERVE = 1.2  # of the time that the winner's training is expected to take


class Agreed(BaseModel):
    """The content of study.json."""

    model_config = ConfigDict(extra="allow")
    study: str
    run: str
    goals: list[dict[str, Any]]
    search: dict[str, Any]
    storage: str | None
    rungs: list[int] | None
    testdata: str | None = None
    optform: str
    seed: int
    threads: int
    sampler: str
    command: str

    @field_validator("goals")
    @classmethod
    def _are_goals(cls, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            problems = [words for each in given for _, words in Goal(**each).problems()]
        except TypeError as e:  # of names that a goal has not
            raise ValueError(str(e)) from e
        if problems or not given:
            raise ValueError(problems[0] if problems else "there is none")
        return given


def started(config: SearchConfig) -> dict[str, Any]:
    """A new study's facts, written to its folder.

    Raises:
        UserError: the goals' file is wrong, or the name is taken.
    """
    assert config.goals is not None
    goals, rest = load_goals(config.goals, higher_is_better(config.optform), _check_rest)
    pinned = rest.get("search") or {}
    name = config.study or f"{config.optform}-{time.strftime('%Y%m%d-%H%M%S')}"
    _check_name(name)
    device = _device_of(goals, config.device_results)
    run = config.start_from or _newest_dense(config.optform) or _trained_dense(config)
    goals = _on_a_device(goals, device, STUDIES / name / MODEL)
    about = {
        "study": name, "run": run,
        "goals": [goal.to_dict() for goal in goals], "search": dict(pinned), "storage": config.storage, "rungs": None,
        "testdata": config.testdata,
        **{each: getattr(config, each) for each in KEPT},
        "command": shlex.join(["python", "search.py", *sys.argv[1:]]),
    }  # fmt: skip
    write_json(STUDIES / name / "study.json", about)
    join = again(name) + to_type_again(config)
    logger.info("study %s, from run %s; other workers join by: %s", name, about["run"], join)
    return about


def _check_rest(content: Mapping[str, Any], report: Report) -> None:
    """What a file of goals holds beside them."""
    for key in (each for each in content if each not in HELD):
        close = f"; {did_you_mean(str(key), HELD)}" if nearest(str(key), HELD) else ""
        report.add(f"{shown(key)} has no place here; it holds `goals:` and `search:`{close}", (str(key),))
    pinned, goals = content.get("search") or {}, content.get("goals")
    if not isinstance(pinned, Mapping):
        report.add(f"given {shown(pinned)}; search: holds knobs, `NAME: VALUE`", ("search",))
        return
    entries = goals if isinstance(goals, list) else []
    about_bytes = any(isinstance(each, Mapping) and each.get("metric") == BYTES for each in entries)
    for name, fault in faults_of_knobs(pinned, about_bytes):
        report.add(fault, ("search", name))


def leave_nothing(about: Mapping[str, Any]) -> None:
    """Removes the folder of a study in which nothing has been measured, so that its name is free again."""
    folder = STUDIES / about["study"]
    ours = {
        "study.json",
        "first",
        "journal.log",
        *([MODEL] if any(each.get("device") for each in about["goals"]) else []),
    }
    if {each.name for each in folder.rglob("*") if each.is_file()} <= ours:
        shutil.rmtree(folder, ignore_errors=True)


def _device_of(goals: list[Goal], given: str | None) -> str | None:
    """The one other machine that goals on time are about; None where it is this one.

    Raises:
        UserError: the model cannot be read, or goals on time are about several machines.
    """
    timed = [goal for goal in goals if goal.metric == LATENCY]
    if given is not None and not timed:
        raise UserError("--device-results is the clock of goals on latency, and there is none; nothing was started")
    machines = {goal.device or given for goal in timed}
    if len(machines) > 1:
        named = ", ".join(sorted(each or "this machine" for each in machines))
        raise UserError(f"the goals on latency are about several machines ({named}); a search has one clock. Nothing "
                        "was started")  # fmt: skip
    device = next(iter(machines), None)
    for goal in timed if device is not None else []:
        if problem := problem_with_device(str(device), goal.runtime):
            raise UserError(f"{goal}: {problem}; nothing was started")
    return device


def _on_a_device(goals: list[Goal], device: str | None, kept: Path) -> list[Goal]:
    """The goals with the latency model of another machine, which the study keeps; as they are without one."""
    if device is None:
        return goals
    timed = [goal for goal in goals if goal.metric == LATENCY]
    read_model(device).save(kept)
    return [Goal(**{**each.to_dict(), "device": str(kept)}) if each in timed else each for each in goals]


def resumed(config: SearchConfig) -> dict[str, Any]:
    """The facts of the study that a worker resumes.

    Raises:
        UserError: there is no such study, or an option is given that it was begun without.
    """
    about = _read(str(config.study))
    for name in KEPT:
        if name in config.explicit and getattr(config, name) != about.get(name, getattr(config, name)):
            raise UserError(
                f"--{dashed(name)}={getattr(config, name)}: the study {config.study} was begun with {about[name]}; "
                "leave it out. Nothing was started"
            )
    about["storage"] = config.storage or about["storage"]
    about["testdata"] = config.testdata or about.get("testdata")
    return about


def agreed_rungs(about: Mapping[str, Any], minutes: float, subject: Subject) -> list[int]:
    """The study's rungs, epochs at which trials are compared; written down where this worker is the first.

    Called by one worker at a time.
    """
    kept = _read(about["study"])
    if not kept["rungs"]:
        kept["rungs"] = _rungs(minutes, subject)
        write_json(STUDIES / about["study"] / "study.json", kept)
    found: list[int] = kept["rungs"]
    return found


def again(study: str) -> str:
    """The command that resumes a study."""
    return f"python search.py --study={shlex.quote(study)} --resume"


def epoch_seconds(subject: Subject) -> float:
    """Of the dense run's training."""
    checkpoint = subject.checkpoint
    return max(0.1, float(checkpoint.get("seconds", 10.0)) / (checkpoint["epoch"] + 1))


def _rungs(minutes: float, subject: Subject) -> list[int]:
    """Epochs of the rungs: as many as let some whole fine-tunings and the winner's into the time."""
    share = minutes * 60 / (WHOLE_TRAININGS + 2 * WINNER) / epoch_seconds(subject)
    whole = max(4, min(LONGEST_RUNG, int(share) // 4 * 4))
    return [whole // 4, whole // 2, whole]


def _check_name(name: str) -> None:
    """Whether a new study may have this name: a trial's run must not be that of an earlier study."""
    if not is_plain_name(f"{name}-0000-whole"):
        raise UserError(f"--study={shown(name)}: a study's name is one short folder name; nothing was started")
    if (STUDIES / name / "study.json").exists():
        raise UserError(f"there is a study {name} already; resume it by {again(name)}, or name another")
    of_earlier = sorted(each.name for each in Path("checkpoints").glob(f"{_escaped(name)}-[0-9][0-9][0-9][0-9]*"))
    if of_earlier:
        raise UserError(
            f"--study={name}: its trials would be the runs {name}-0000, ..., and {of_earlier[0]} is there already, of "
            "an earlier study; name another, or remove those runs from checkpoints/, logs/ and results/. Nothing was "
            "started"
        )


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _read(study: str) -> dict[str, Any]:
    path = STUDIES / study / "study.json"
    try:
        return Agreed.model_validate_json(read_text(path), strict=True).model_dump()
    except FileNotFoundError as e:
        there = sorted(each.parent.name for each in STUDIES.glob("*/study.json"))
        raise UserError(f"there is no study {study} in studies/; {did_you_mean(study, there)}") from e
    except ValidationError as e:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in e.errors()[:3])
        raise UserError(f"{path} cannot be read: {'; '.join(faults)}") from e
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}") from e


def _newest_dense(optform: str) -> str | None:
    try:
        runs = newest_runs()
    except UserError:
        return None
    for run in runs:
        if run.best.is_file() and is_dense(run):
            checkpoint = check_run(load_checkpoint(run.best), run.best)
            if checkpoint["optform"] != optform:
                continue
            done, asked = load_last(run)["epoch"] + 1, checkpoint["options"].get("nEpochs")
            # Without --nEpochs the application or the schedule knew how many; the end of training writes the summary.
            if done >= asked if asked is not None else (run.results / "summary.json").is_file():
                return run.name
            logger.warning(
                "the dense run %s ended after %d%s epochs and is passed over; python train.py --resume=%s finishes "
                "it, --start-from=%s takes it as it is",
                run.name, done, "" if asked is None else f" of {asked}", run.name, run.name,
            )  # fmt: skip
    return None


def _trained_dense(config: SearchConfig) -> str:
    """Trains a dense network with the application's own options."""
    application, name = find_application(config.optform), f"{config.optform}-dense"
    if Run(name).checkpoints.is_dir():
        logger.info("resuming %s, the dense network that was being trained", name)
        options = resumed_options(application.load("train_options")().parse([f"--resume={name}"]))
        application.load("trainer")(options, *application.load("training_loaders")(options)).run()
        return name
    logger.info("there is no dense run of %s yet; training %s first", config.optform, name)
    words = [f"--optform={config.optform}", f"--run={name}", f"--seed={config.seed}", f"--threads={config.threads}",
             f"--device={config.device}"]  # fmt: skip
    given = application.load("train_options")().parse(words)
    application.load("trainer")(given, *application.load("training_loaders")(given)).run()
    return name

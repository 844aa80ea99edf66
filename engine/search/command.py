"""What `search.py` does: `act`. A worker; any number of them run the same command with `--study NAME --resume`."""

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.console import GoalMissed
from apputils.runs.folders import check_new_name, newest_runs
from compress.config.goals import load_goals
from compress.errors import UserError
from compress.goals.goal import Goal
from compress.io.files import read_text, write_json
from compress.io.optional import require
from engine.goals.training import higher_is_better
from engine.goals.verdict import check_goals
from engine.saved.dense_baseline import is_dense
from engine.search.screen import quiet
from engine.search.space import first_candidates, space_of, unreachable
from engine.search.study import PURPOSE, next_trial, open_study, sampler_of, storage_errors
from engine.search.subject import Subject
from engine.search.trial import Trials, told
from engine.search.winner import Finish
from options.applications import find_application
from options.search_options import SearchConfig

logger = logging.getLogger("search")
STUDIES = Path("studies")
WHOLE_TRAININGS = 6  # fine-tunings to the last rung that the time should allow, about
LONGEST_RUNG = 32
WINNER = 2  # times the last rung's epochs


def act(config: SearchConfig) -> None:
    """Searches until the time is over, then trains the winner and writes everything.

    Raises:
        UserError: something the user can mend.
        GoalMissed: everything is written, and a goal is not met, or cannot be.
    """
    require(PURPOSE, "optuna", "filelock")
    began = time.monotonic()
    about = _resumed(config) if config.resume else _started(config)
    folder = STUDIES / about["study"]
    subject = Subject(about["run"], config.threads, config.device, about["seed"], folder)
    goals = [Goal(**each) for each in about["goals"]]
    space = space_of(subject, about["search"])
    if problem := unreachable(subject, space, goals):
        raise GoalMissed(f"{problem}; nothing was searched")
    rungs = about["rungs"] or _rungs(config.minutes, subject)
    if not about["rungs"]:
        about["rungs"] = rungs
        write_json(folder / "study.json", about)
    left = config.minutes * 60 - _winner_seconds(rungs, subject)
    out_of_time = lambda: time.monotonic() - began > left  # noqa: E731
    with storage_errors(str(about["storage"] or folder)):
        study = open_study(folder, about["storage"], _facts(subject, about), False, subject.metric[1])
        with FileLock(folder / "first"):
            if not study.get_trials(deepcopy=False):
                for candidate in first_candidates(subject, space, goals):
                    study.enqueue_trial(space.parameters(candidate), skip_if_exists=True)
        trials = Trials(subject, space, goals, rungs, about["study"], out_of_time)
        _search(study, trials, config, out_of_time, began)
        whole = lambda: time.monotonic() - began > config.minutes * 60  # noqa: E731
        try:
            with FileLock(folder / "winner", timeout=0):
                logger.info("the time for trials is over; training the best one whole")
                record = Finish(study, trials, WINNER * rungs[-1], about["command"], whole).run()
        except Timeout:
            logger.info("another worker trains the winner; this one is done")
            return
    check_goals({"goals": record})


def _search(study: Any, trials: Trials, config: SearchConfig, out_of_time: Any, began: float) -> None:
    """Trials, one after another, until the time is over."""
    sampler = sampler_of(config.sampler, trials.subject.seed)
    while not out_of_time() and not _enough(study, config.trials):
        trial, lock = next_trial(study, trials.subject.folder, sampler)
        try:
            with quiet():
                told(study, trial, trials)
        finally:
            lock.release()
        minutes = (time.monotonic() - began) / 60
        done = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
        logger.info("%d trials done, best so far: %s; %.1f of %g minutes", len(done), _best(study, trials), minutes,
                    config.minutes)  # fmt: skip


def _enough(study: Any, most: int | None) -> bool:
    return most is not None and sum(each.state.is_finished() for each in study.get_trials(deepcopy=False)) >= most


def _best(study: Any, trials: Trials) -> str:
    ranked = Finish(study, trials, 0, "", lambda: False).ranked()
    if not ranked:
        return "none yet"
    values = ranked[0].intermediate_values
    return f"trial {ranked[0].number}, {trials.subject.metric[0]} {values[max(values)]:.4f} after {max(values)} epochs"


def _started(config: SearchConfig) -> dict[str, Any]:
    """A new study's facts, written to its folder."""
    assert config.goals is not None
    metrics = higher_is_better(config.optform)
    goals, rest = load_goals(config.goals, metrics)
    unknown = sorted(set(rest) - {"search", "version"})
    if unknown:
        raise UserError(f"{config.goals}: {', '.join(unknown)} has no place here; it holds `goals:` and `search:`")
    name = config.study or f"{config.optform}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = STUDIES / name
    if (folder / "study.json").exists():
        raise UserError(f"there is a study {name} already; go on with it by --study={name} --resume, or name another")
    check_new_name(f"{name}-best")
    run = config.start_from or _newest_dense(config.optform) or _trained_dense(config)
    about = {
        "study": name, "run": run, "goals": [goal.to_dict() for goal in goals], "search": rest.get("search") or {},
        "seed": config.seed, "storage": config.storage, "rungs": None,
        "command": shlex.join(["python", "search.py", *sys.argv[1:]]),
    }  # fmt: skip
    if not isinstance(about["search"], Mapping):
        raise UserError(f"{config.goals}: search: holds knobs, `NAME: VALUE`; nothing was started")
    write_json(folder / "study.json", about)
    logger.info("study %s, from run %s; other workers join by: python search.py --study=%s --resume", name, run, name)
    return about


def _resumed(config: SearchConfig) -> dict[str, Any]:
    path = STUDIES / str(config.study) / "study.json"
    try:
        about: dict[str, Any] = json.loads(read_text(path))
        about["storage"] = config.storage or about["storage"]
        return about
    except FileNotFoundError as e:
        there = sorted(each.parent.name for each in STUDIES.glob("*/study.json"))
        raise UserError(f"there is no study {config.study} in studies/; there are: {', '.join(there) or 'none'}") from e
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:200]}") from e


def _facts(subject: Subject, about: Mapping[str, Any]) -> dict[str, Any]:
    """What every worker of a study must share."""
    found = {"network": subject.checkpoint["network"], "data": subject.checkpoint["task"], "goals": about["goals"]}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _newest_dense(optform: str) -> str | None:
    try:
        runs = newest_runs()
    except UserError:
        return None
    for run in runs:
        if run.best.is_file() and is_dense(run):
            checkpoint = check_run(load_checkpoint(run.best), run.best)
            if checkpoint["optform"] == optform:
                return run.name
    return None


def _trained_dense(config: SearchConfig) -> str:
    """Trains a dense network with the application's own options."""
    application, name = find_application(config.optform), f"{config.optform}-dense"
    logger.info("there is no dense run of %s yet; training %s first", config.optform, name)
    words = [f"--optform={config.optform}", f"--run={name}", f"--seed={config.seed}", f"--threads={config.threads}",
             f"--device={config.device}"]  # fmt: skip
    given = application.load("train_options")().parse(words)
    application.load("trainer")(given, *application.load("training_loaders")(given)).run()
    return name


def _epoch_seconds(subject: Subject) -> float:
    checkpoint = subject.checkpoint
    return max(0.1, float(checkpoint.get("seconds", 10.0)) / (checkpoint["epoch"] + 1))


def _rungs(minutes: float, subject: Subject) -> list[int]:
    """Epochs of the rungs: as many as let some whole fine-tunings and the winner's into the time."""
    share = minutes * 60 / (WHOLE_TRAININGS + 2 * WINNER) / _epoch_seconds(subject)
    whole = max(4, min(LONGEST_RUNG, int(share) // 4 * 4))
    return [whole // 4, whole // 2, whole]


def _winner_seconds(rungs: list[int], subject: Subject) -> float:
    """Kept for the winner."""
    return 1.2 * WINNER * rungs[-1] * _epoch_seconds(subject)

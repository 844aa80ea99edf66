"""What `search.py` does: `act`. A worker; any number of them run the same command with `--study NAME --resume`."""

import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from apputils.runs.console import BY_SIGNAL, GoalMissed, Interrupted
from compress.analysis.latency_model.build import REFERENCE
from compress.analysis.sensitivity.record import fingerprint
from compress.errors import UserError
from compress.export.layer_times import PROFILED
from compress.goals.goal import LATENCY, Goal
from compress.io.optional import require
from engine.architectures.own import check_typed
from engine.goals.verdict import check_goals
from engine.search.agreement import (
    RESERVE,
    STUDIES,
    WINNER,
    again,
    agreed_rungs,
    epoch_seconds,
    leave_nothing,
    resumed,
    started,
)
from engine.search.screen import quiet
from engine.search.space import Space, first_candidates, predictable, space_of, unreachable, with_sensitive_layers
from engine.search.study import (
    PURPOSE,
    RANDOM,
    check_has_its_trials,
    check_storage,
    next_trial,
    open_study,
    sampler_of,
    storage_errors,
)
from engine.search.subject import Subject
from engine.search.trial import Trials, told
from engine.search.winner import Finish
from engine.signals import raising_signals
from options.search_options import SearchConfig

logger = logging.getLogger("search")
MOST_RESERVED = 0.5  # of the minutes for the winner: a trial of few epochs overrates what one takes
FAILED_AT_FIRST = 5  # trials that all failed, and none that did not: something else is wrong than a candidate


@dataclass
class Clock:
    """This worker's time.

    Attributes:
        minutes: it has.
        reserve: seconds of them that are kept for the winner.
        began: when it began.
    """

    minutes: float
    reserve: float
    began: float

    @property
    def left(self) -> float:
        """Seconds, without those for the winner."""
        return self.began + self.minutes * 60 - self.reserve - time.monotonic()

    def out_of_time(self) -> bool:
        """Whether no further trial should begin."""
        return self.left <= 0

    def over(self) -> bool:
        """Whether the time is over, that for the winner included."""
        return self.left + self.reserve <= 0


def act(config: SearchConfig) -> None:
    """Searches until the time is over, then trains the winner and writes everything.

    Raises:
        UserError: something the user can mend.
        GoalMissed: everything is written, and a goal is not met, or cannot be.
        Interrupted: a signal came; everything is saved.
    """
    require(PURPOSE, "optuna", "filelock")
    about = resumed(config) if config.resume else started(config)
    began = time.monotonic()  # a dense run that had to be trained first has its time beside the search
    try:
        with raising_signals():
            _worked(config, about, began)
    except UserError:
        if not config.resume:
            leave_nothing(about)
        raise
    except KeyboardInterrupt as e:
        raise Interrupted(signal.SIGINT, f"interrupted; {again(about['study'])} resumes from here") from e
    except Interrupted as e:
        number = e.code - BY_SIGNAL
        name = signal.Signals(number).name
        raise Interrupted(number, f"{name}: saved; {again(about['study'])} resumes from here") from e


def _runtime(goals: Sequence[Goal]) -> str:
    """That of the goals on latency, if its layers can be timed; of several the first."""
    timed = [str(goal.runtime) for goal in goals if goal.metric == LATENCY]
    return next((each for each in timed if each in PROFILED), REFERENCE)


def _worked(config: SearchConfig, about: Mapping[str, Any], began: float) -> None:
    folder = STUDIES / about["study"]
    goals = [Goal(**each) for each in about["goals"]]
    elsewhere = any(goal.device is not None for goal in goals)
    check_storage(folder, about["storage"])
    subject = Subject(
        about["run"], about.get("threads", 1), config.device, about["seed"], folder, elsewhere, _runtime(goals)
    )
    check_typed(subject.checkpoint["options"])
    with FileLock(folder / "first"):  # one measures the latency model and chooses the rungs, the others wait for it
        space = space_of(subject, about["search"], goals)
        for goal in goals:
            if goal.metric == LATENCY and goal not in predictable(goals, subject.clock):
                logger.warning(
                    "%s: candidates' times are predicted for %s; only the best ones' files are measured in %s",
                    goal, subject.clock, goal.runtime,
                )  # fmt: skip
        if problem := unreachable(subject, space, goals):
            raise GoalMissed(f"{problem}; nothing was searched")
        space = with_sensitive_layers(space, subject)
        rungs = agreed_rungs(about, config.minutes, subject)
    kind = about.get("sampler", "tpe")
    clock = Clock(config.minutes, RESERVE * WINNER * rungs[-1] * epoch_seconds(subject), began)
    with storage_errors(str(about["storage"] or folder)):
        study = open_study(folder, about["storage"], _facts(subject, about, space), subject.metric[1], rungs[0])
        with FileLock(folder / "first"):
            check_has_its_trials(study, folder, str(about["storage"] or folder / "journal.log"))
            if not study.get_trials(deepcopy=False):
                enqueue_first(study, subject, space, goals, kind)
        trials = Trials(subject, space, goals, rungs, about["study"], clock.out_of_time)
        _search(study, trials, config, clock, kind)
        try:
            with FileLock(folder / "winner", timeout=0):
                logger.info("%s; training the best one whole", "the time for trials is over" if clock.out_of_time()
                            else f"--trials={config.trials} are done")  # fmt: skip
                record = Finish(
                    study, trials, WINNER * rungs[-1], about["command"], clock.over, about.get("testdata")
                ).run()
        except Timeout:
            logger.info("another worker trains the winner; this one is done")
            return
    check_goals({"goals": record})


def enqueue_first(study: Any, subject: Subject, space: Space, goals: Sequence[Goal], kind: str) -> None:
    """Candidates that a study begins with; none where the sampler is random: that is what the search is compared to."""
    for candidate in first_candidates(subject, space, goals) if kind != RANDOM else ():
        study.enqueue_trial(space.parameters(candidate), skip_if_exists=True)


def _search(study: Any, trials: Trials, config: SearchConfig, clock: Clock, kind: str) -> None:
    """Trials, one after another, until the time is over."""
    sampler = sampler_of(kind, trials.subject.seed)
    # By chance alone no candidate may be worth training, however long it goes on.
    hopeless = lambda: kind == RANDOM and clock.over()  # noqa: E731
    while not (_enough(study, config.trials) or hopeless() or (clock.out_of_time() and trials.any_trained(study))):
        trial, lock = next_trial(study, trials.subject.folder, sampler)
        try:
            with quiet():
                told(study, trial, trials)
        finally:
            lock.release()
        done = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
        logger.info("%d trials done, best so far: %s; %.1f of %g minutes left for trials, %.1f are kept for the winner",
                    len(done), _best(study, trials, clock), max(0.0, clock.left / 60), clock.minutes,
                    clock.reserve / 60)  # fmt: skip
        _check_any_succeeds(done)


def _check_any_succeeds(done: list[Any]) -> None:
    """Stops a search in which nothing works.

    Raises:
        UserError: with the last trial's reason.
    """
    if len(done) >= FAILED_AT_FIRST and all("refused" in each.user_attrs for each in done):
        raise UserError(
            f"all of the first {len(done)} trials failed; the last one: {done[-1].user_attrs['refused']}. The search "
            "was stopped"
        )


def _enough(study: Any, most: int | None) -> bool:
    return most is not None and sum(each.state.is_finished() for each in study.get_trials(deepcopy=False)) >= most


def _best(study: Any, trials: Trials, clock: Clock) -> str:
    """The best trial so far, in words; the winner's training is expected to take as long an epoch as its trial."""
    ranked = Finish(study, trials, 0, "", lambda: False).ranked()
    if not ranked:
        return "none yet"
    best, values = ranked[0], ranked[0].intermediate_values
    if seconds := best.user_attrs.get("seconds"):
        expected = RESERVE * WINNER * trials.rungs[-1] * seconds / max(values)
        clock.reserve = max(clock.reserve, min(expected, MOST_RESERVED * clock.minutes * 60))
    time_share = best.user_attrs["costs"]["latency"]
    return (
        f"trial {best.number}, {trials.subject.metric[0]} {values[max(values)]:.4f} after {max(values)} epochs, "
        f"predicted {time_share:.2f} of the dense time"
    )


def _facts(subject: Subject, about: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What every worker of a study must share."""
    found = {
        "network": subject.checkpoint["network"],
        "dense network (the run was trained anew)": fingerprint(subject.network, "search"),
        "data": subject.checkpoint["task"], "goals": about["goals"],
        "search space (knobs or widths: an earlier version's, or of a new latency model)": space.described(),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain

"""One trial: its network before training, then fine-tuning in rungs, each the same run continued.

`Trials.run`. What a trial decided and found is in its run, so that a worker that dies loses nothing: the next one
continues the run under the trial's number.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apputils.runs.folders import Run
from compress.errors import UserError
from compress.goals.goal import Goal
from compress.io.files import write_text
from compress.io.optional import needed
from engine.resume import resumed
from engine.search.candidate import INT8, QUANTIZE_FROM, Candidate, schedule_of, schedule_text
from engine.search.space import Space
from engine.search.study import PURPOSE
from engine.search.subject import Subject

logger = logging.getLogger("search")
SLACK = 0.03  # by which a predicted cost may exceed its bound and still be trained: predictions err


@dataclass(frozen=True)
class Trials:
    """Carries trials out.

    Attributes:
        subject: the dense run.
        space: what may be chosen.
        goals: to meet.
        rungs: epochs at which trials are compared, increasing; the last one is a whole fine-tuning.
        prefix: of the runs' names.
        out_of_time: whether no further rung should begin.
    """

    subject: Subject
    space: Space
    goals: Sequence[Goal]
    rungs: Sequence[int]
    prefix: str
    out_of_time: Callable[[], bool]

    def run_name(self, number: int) -> str:
        """Of a trial."""
        return f"{self.prefix}-{number:04d}"

    def run(self, trial: Any) -> tuple[float, bool]:
        """Carries a trial out or goes on with it; its quality, and whether it was stopped before the last rung."""
        candidate = self.space.candidate(trial)
        schedule = self.subject.folder / f"trial{trial.number:04d}.yaml"
        write_text(schedule, self.text(candidate, trial.number))
        if "feasible" not in trial.user_attrs:
            self._before_training(trial, candidate)
        if not trial.user_attrs["feasible"]:
            return float(trial.user_attrs["untrained"]), False
        quality = float(trial.user_attrs["untrained"])
        for rung in self.rungs:
            if self.out_of_time() and rung != self.rungs[0]:
                return quality, True
            quality = self._trained(trial, candidate, schedule, rung)
            trial.report(quality, rung)
            if rung != self.rungs[-1] and trial.should_prune():
                return quality, True
        return quality, False

    def text(self, candidate: Candidate, number: int) -> str:
        """The schedule of a trial."""
        groups = self.space.groups[candidate.precision]
        names = self.subject.weight_names()
        content = schedule_of(candidate, groups, self.rungs[-1], self.subject.logits, names)
        return schedule_text(content, [f"Trial {number} of the study {self.subject.folder.name}."])

    def config(self, candidate: Candidate, schedule: Path, *arguments: str) -> Any:
        """Training options of a trial."""
        rate = self.subject.checkpoint["options"]["lr"] * candidate.lr
        given = (f"--compress={schedule}", f"--start-from={self.subject.run}", f"--lr={rate:.6g}")
        return self.subject.config(*given, *arguments)

    def _before_training(self, trial: Any, candidate: Candidate) -> None:
        """The candidate without training: quality, costs, and whether it is worth training."""
        network = self.subject.before_training(candidate, self.space.groups[candidate.precision])
        quality = self.subject.quality(network)
        costs = self.subject.costs(network, candidate.precision)
        exceeded = self.subject.violations(self.goals, costs)
        for name, value in exceeded.items():
            trial.set_constraint(name, value - SLACK)
        trial.set_user_attr("costs", {name: float(value) for name, value in costs.items()})
        trial.set_user_attr("untrained", float(quality))
        trial.set_user_attr("feasible", all(value <= SLACK for value in exceeded.values()))

    def _trained(self, trial: Any, candidate: Candidate, schedule: Path, epochs: int) -> float:
        """Quality after so many epochs: the run is started, or continued from where it was left."""
        name = self.run_name(trial.number)
        metric, higher = self.subject.metric
        if Run(name).last.is_file():
            optform = self.subject.checkpoint["optform"]
            parser = self.subject.application.load("train_options")()
            config = resumed(parser.parse([f"--optform={optform}", f"--resume={name}", f"--nEpochs={epochs}"]))
        else:
            config = self.config(candidate, schedule, f"--run={name}", f"--nEpochs={epochs}")
        trainer = self.subject.trainer(config)
        started = time.perf_counter()
        trainer.run()
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + time.perf_counter() - started)
        first = candidate.thin_epoch + (QUANTIZE_FROM if candidate.precision == INT8 else 0)
        settled = [row for row in trainer.progress.history if row["epoch"] >= first]
        values = [row[metric] for row in settled or trainer.progress.history]
        return float(max(values) if higher else min(values))


def told(study: Any, trial: Any, trials: Trials) -> None:
    """Carries a trial out and tells the study; what cannot be built is told as failed, with its reason."""
    states = needed("optuna", PURPOSE).trial.TrialState
    try:
        value, stopped = trials.run(trial)
    except UserError as e:
        logger.warning("trial %d: %s", trial.number, e)
        trial.set_user_attr("refused", str(e)[:500])
        study.tell(trial, state=states.FAIL)
        return
    if stopped:
        study.tell(trial, state=states.PRUNED)
    else:
        study.tell(trial, value)

"""One trial: its network before training, then fine-tuning in rungs, each the same run continued.

`Trials.run`. What a trial decided and found is in its run, so that a worker that dies loses nothing: the next one
continues the run under the trial's number.
"""

import logging
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from apputils.runs.console import Interrupted
from apputils.runs.folders import Run
from compress.errors import UserError
from compress.export.onnx.qdq import is_quantized
from compress.goals.goal import Goal
from compress.io.files import read_text, write_text
from compress.io.optional import needed
from engine.resume import last_checkpoint, resumed
from engine.saved.load_model import load_network
from engine.search.candidate import INT8, Candidate, calibrated_settings, schedule_of, schedule_text
from engine.search.sensitivity import quantized_after_training
from engine.search.space import Space, predictable
from engine.search.study import PURPOSE
from engine.search.subject import Subject

logger = logging.getLogger("search")


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

    @staticmethod
    def any_trained(study: Any) -> bool:
        """Whether a trial has passed its first rung: one does, however little time there is."""
        return any(each.intermediate_values for each in study.get_trials(deepcopy=False) if each.state.is_finished())

    def run(self, trial: Any) -> tuple[float, bool]:
        """Runs or resumes a trial; its quality, and whether it was stopped before the last rung."""
        candidate = self.space.candidate(trial)
        schedule = self.subject.folder / f"trial{trial.number:04d}.yaml"
        write_text(schedule, self.text(candidate, trial.number))
        if "feasible" not in trial.user_attrs:
            self._before_training(trial, candidate)
        quality = float(trial.user_attrs["untrained"])
        if not trial.user_attrs["feasible"]:
            return quality, False
        if (same := _same(trial)) is not None:
            trial.set_user_attr("same_as", same.number)
            return float(same.value), False
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
        batches = len(self.subject.samples)
        content = schedule_of(candidate, groups, self.rungs[-1], self.subject.logits, names, batches)
        return schedule_text(content, [f"Trial {number} of the study {self.subject.folder.name}."])

    def config(self, candidate: Candidate, schedule: Path, *arguments: str) -> Any:
        """Training options of a trial."""
        rate = self.subject.checkpoint["options"]["lr"] * candidate.lr
        given = (f"--compress={schedule}", f"--start-from={self.subject.run}", f"--lr={rate:.6g}")
        return self.subject.config(*given, *arguments)

    def _before_training(self, trial: Any, candidate: Candidate) -> None:
        """The candidate without training: quality, costs, and whether it is worth training."""
        network = self.subject.before_training(candidate, self.space.groups[candidate.precision])
        quality = self.subject.quality(self._in_precision(network, candidate))
        costs = self.subject.costs(network, candidate)
        exceeded = self.subject.violations(self.goals, costs)
        slack = {str(goal): self.subject.slack(goal) for goal in self.goals}
        for name, value in exceeded.items():
            trial.set_constraint(name, value - slack[name])
        trial.set_user_attr("exceeded", {name: float(value) for name, value in exceeded.items()})
        trial.set_user_attr("costs", {name: float(value) for name, value in costs.items()})
        trial.set_user_attr("untrained", float(quality))
        judged = map(str, predictable(self.goals, self.subject.clock))
        trial.set_user_attr("feasible", all(exceeded[name] <= slack[name] for name in judged))

    def _trained(self, trial: Any, candidate: Candidate, schedule: Path, epochs: int) -> float:
        """Quality after so many epochs: the run is started, or continued from where it was left."""
        run = Run(self.run_name(trial.number))
        trainer = self.subject.trainer(self.of_run(run, candidate, schedule, epochs))
        started = time.perf_counter()
        summary = trainer.run()
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + time.perf_counter() - started)
        metric, higher = self.subject.metric
        first = candidate.settles(self.rungs[-1])
        if candidate.is_calibrated and epochs > first:  # of its best network, which the run has quantized at its end
            return float(summary["quality"][metric]["model"])
        if epochs <= first:
            return self.subject.quality(self.as_decided(run, candidate))
        done = [row for row in trainer.progress.history if first <= row["epoch"] < epochs]
        return float((max if higher else min)(row[metric] for row in done))

    def as_decided(self, run: Run, candidate: Candidate) -> nn.Module:
        """A run's last network as the candidate has it: what its schedule has not done yet is done here.

        Where a rung ends before the network is thinned or quantized, quality and time are those that it would have if
        that happened now, by ranking and calibration alone.
        """
        network = load_network(run.last).cpu()
        groups = self.space.groups[candidate.precision]
        count = lambda each: sum(parameter.numel() for parameter in each.parameters())  # noqa: E731
        narrow = any(candidate.widths.get(group.name, group.units) < group.units for group in groups)
        if narrow and not is_quantized(network) and count(network) == count(self.subject.network):
            network = self.subject.before_training(candidate, groups, network).cpu()
        return network if is_quantized(network) else self._in_precision(network, candidate)

    def _in_precision(self, network: nn.Module, candidate: Candidate) -> nn.Module:
        """A float network in the candidate's precision, by calibration alone."""
        if candidate.precision != INT8:
            return network
        return quantized_after_training(network.cpu(), self.subject.calibration, calibrated_settings(candidate))

    def of_run(self, run: Run, candidate: Candidate, schedule: Path, epochs: int) -> Any:
        """Training options of a candidate's run, which is continued where it has begun.

        Raises:
            UserError: the run has another schedule: it is not this candidate's.
        """
        if not run.kept_files():
            shutil.rmtree(run.logs, ignore_errors=True)  # of a worker that died before it saved anything
            return self.config(candidate, schedule, f"--run={run.name}", f"--nEpochs={epochs}")
        kept = last_checkpoint(run)
        if kept["schedule_text"] != read_text(schedule):
            raise UserError(f"the run {run.name} was trained under another schedule than {schedule}; remove it")
        epochs = max(epochs, kept["epoch"] + 1)  # it was killed in a later rung, and this one is known
        parser = self.subject.application.load("train_options")()
        words = [f"--optform={kept['optform']}", f"--resume={run.name}", f"--nEpochs={epochs}"]
        return resumed(parser.parse(words), kept)


def _same(trial: Any) -> Any:
    """A trial that was trained to the last rung and decided the same; None if there is none."""
    states = needed("optuna", PURPOSE).trial.TrialState
    done = trial.study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    return next((each for each in done if each.params == trial.params and each.intermediate_values), None)


def told(study: Any, trial: Any, trials: Trials) -> None:
    """Carries a trial out and tells the study; a candidate that fails is told as failed, with its reason.

    Raises:
        OSError: of the disk or the storage, which is no fault of the candidate.
    """
    optuna = needed("optuna", PURPOSE)
    states = optuna.trial.TrialState
    try:
        value, stopped = trials.run(trial)
    except (OSError, optuna.exceptions.OptunaError, Interrupted):
        raise
    except UserError as e:
        _failed(study, trial, str(e))
        return
    except Exception as e:  # one candidate's fault must not end the search, of whatever kind it is
        place = trials.subject.folder / f"trial{trial.number:04d}.txt"
        write_text(place, traceback.format_exc())
        _failed(study, trial, f"{type(e).__name__}: {e}; where: {place}")
        return
    if stopped:
        study.tell(trial, state=states.PRUNED)
    else:
        study.tell(trial, value)


def _failed(study: Any, trial: Any, reason: str) -> None:
    logger.warning("trial %d failed: %s", trial.number, reason[:500])
    trial.set_user_attr("refused", reason[:500])
    study.tell(trial, state=needed("optuna", PURPOSE).trial.TrialState.FAIL)

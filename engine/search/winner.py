"""The end of a search: the best candidate trained whole, its goals measured, everything written.

`Finish.run`. Candidates whose files are measured to be too slow are passed over before that; where the goals are missed
after it, the next candidate is tried, `MOST_TRIES` in all.
"""

import logging
import math
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from apputils.runs.folders import Run
from compress.goals.goal import LATENCY, number
from compress.goals.judge import MET, UNDECIDED, goals_table, shortfall
from compress.io.files import write_json, write_text
from compress.io.optional import needed
from engine.resume import last_checkpoint
from engine.saved.find_checkpoint import find_subject
from engine.search.candidate import Candidate, schedule_of, schedule_text
from engine.search.measured import Stopwatch, excess
from engine.search.page import bounds_of, tested_on, write_page
from engine.search.screen import quiet
from engine.search.study import PURPOSE
from engine.search.trial import Trials

logger = logging.getLogger("search")
CLOSE = 0.03  # of a bound: measured to be too slow by no more, a trial is the second choice
MOST_TRIES = 3
ENOUGH = 4  # trials for importances
STATES = {"COMPLETE": "carried to its end", "PRUNED": "stopped early", "FAIL": "failed"}  # Optuna's, in our words
MOST_MEASURED = 8  # candidates that are or may be too slow before the search for one that is not ends


@dataclass(frozen=True)
class Finish:
    """Ends a study.

    Attributes:
        study: Optuna's.
        trials: how they were carried out.
        epochs: of the winner's training.
        command: that searched.
        out_of_time: whether no further candidate should be tried.
        testdata: `--testdata`; None is the test part of the dense run's data.
    """

    study: Any
    trials: Trials
    epochs: int
    command: str
    out_of_time: Callable[[], bool]
    testdata: str | None = None

    def run(self) -> dict[str, Any]:
        """Trains the best candidate, measures and writes; the record of its goals on validation data."""
        best: tuple[dict[str, Any], dict[str, Any], str] | None = None
        with tempfile.TemporaryDirectory() as place:
            watch = Stopwatch(self.trials.subject, self.trials.goals, Path(place))
            for trial in islice(self.in_time(watch), MOST_TRIES):
                if best is not None and self.out_of_time():
                    break
                name = f"{self.trials.run_name(trial.number)}-whole"
                record = self._trained(trial, name)
                if best is None or shortfall(record) < shortfall(best[1]):
                    best = trial, record, name
                if record["verdict"] in (MET, UNDECIDED):
                    break
        return self._none() if best is None else self._write(*best)

    def in_time(self, watch: Stopwatch) -> Iterator[Any]:
        """The ranked trials whose files are measured to meet the goals on time; the nearest one where none is.

        Those that miss by next to nothing, or may within the noise, come after them, but before what has lost the
        quality that is asked for; of that the best comes first, though it may be too slow. A trial that is too slow by
        a share tells what prediction would do in its precision; slower ones are not measured.
        """
        missed: list[tuple[float, int, Any]] = []
        near: list[tuple[bool, Any]] = []  # whether it is too slow for sure; those that are come last
        most: dict[str, float] = {}  # precision -> the largest predicted time that may meet
        any_found = False
        for trial in self.ranked():
            predicted, precision = trial.user_attrs["costs"][LATENCY], trial.params["precision"]
            if predicted > most.get(precision, predicted) or len(missed) >= MOST_MEASURED:
                continue
            with quiet():
                least, largest = excess(self.trials.goals, watch.ratios(partial(self._network, trial)))
            if largest <= 0 or (least <= 0 and not self._keeps_quality(trial)):
                if not self._keeps_quality(trial):  # nor does any behind it: they are ranked by quality
                    yield from _by_certainty(near)
                    near = []
                any_found = True
                yield trial
                continue
            how = f"{100 * least:.1f}% too slow" if least > 0 else "perhaps too slow, within the noise,"
            logger.info("trial %d is %s when its file is measured", trial.number, how)
            missed.append((max(least, 0.0), trial.number, trial))
            if least <= CLOSE and self._keeps_quality(trial):
                near.append((least > 0, trial))
            if least > 0:
                most[precision] = predicted / (1 + least)
        any_found |= bool(near)
        yield from _by_certainty(near)
        if missed and not any_found:
            yield min(missed, key=lambda each: each[:2])[2]

    def _keeps_quality(self, trial: Any) -> bool:
        """Whether a trial's quality after its last rung meets the goals on it."""
        (metric, higher), dense = self.trials.subject.metric, self.trials.subject.dense[0]
        value = trial.intermediate_values[max(trial.intermediate_values)]
        bounds = bounds_of(self.trials.goals, metric, dense[metric], higher)["quality"].values()
        return all(value >= bound if higher else value <= bound for bound in bounds)

    def _network(self, trial: Any) -> nn.Module:
        return self.trials.as_decided(Run(self.trials.run_name(trial.number)), self._candidate(trial))

    def ranked(self) -> list[Any]:
        """Trials that were trained and whose predicted costs are allowed, the best quality after its last rung first.

        However early that rung is: one that is better after fewer epochs will not be worse after more.
        """
        states = needed("optuna", PURPOSE).trial.TrialState
        sign = -1.0 if self.trials.subject.metric[1] else 1.0
        found = [each for each in self.study.get_trials(deepcopy=False) if each.intermediate_values]
        found = [each for each in found if each.state in (states.COMPLETE, states.PRUNED)]
        exact = [each for each in found if all(value <= 0 for value in each.constraints.values())] or found
        last = lambda each: max(each.intermediate_values)  # noqa: E731
        exact = [each for each in exact if not math.isnan(each.intermediate_values[last(each)])]
        return sorted(exact, key=lambda each: (sign * each.intermediate_values[last(each)], -last(each), each.number))

    def _candidate(self, trial: Any) -> Candidate:
        fixed = needed("optuna", PURPOSE).trial.FixedTrial(trial.params)
        return self.trials.space.candidate(fixed)

    def _text(self, candidate: Candidate, header: Sequence[str]) -> str:
        subject = self.trials.subject
        groups = self.trials.space.groups[candidate.precision]
        batches = len(subject.samples)
        content = schedule_of(candidate, groups, self.epochs, subject.logits, subject.weight_names(), batches)
        return schedule_text(content, header, self.trials.goals)

    def _trained(self, trial: Any, name: str) -> dict[str, Any]:
        """The whole training of a candidate, or what is left of it; its goals on validation data."""
        subject, candidate = self.trials.subject, self._candidate(trial)
        schedule = subject.folder / f"{name}.yaml"
        write_text(
            schedule, self._text(candidate, [f"Trial {trial.number} of the study {subject.folder.name}, whole."])
        )
        config, run = self.trials.of_run(Run(name), candidate, schedule, self.epochs), Run(name)
        if run.kept_files() and last_checkpoint(run)["epoch"] + 1 >= config.nEpochs:
            said = "trial %d was trained whole before: run %s, %d epochs; its goals are measured again"
        else:
            said = "training trial %d whole: run %s, %d epochs"
        logger.info(said, trial.number, name, config.nEpochs)
        with quiet():
            summary = subject.trainer(config).run()
        record: dict[str, Any] = summary["goals"]
        logger.info("%s", goals_table(record["rows"]))
        return record

    def _write(self, trial: Any, record: dict[str, Any], name: str) -> dict[str, Any]:
        """best.yaml, the checkpoint, the exported file and the page; the test data are looked at once, here."""
        folder = self.trials.subject.folder
        test = self._on_test(name)
        commands = [f"Found by: {self.command}", f"Trained by: {self._command(trial)}"]
        header = [*self._purpose(trial, name), *_figures(record, test), *commands]
        text = self._text(self._candidate(trial), header)
        write_text(folder / "best.yaml", text)
        shutil.copyfile(Run(name).best, folder / "best.pt")
        file = Path(record["file"]) if record.get("file") else None
        if file is not None and file.is_file():
            shutil.copyfile(file, folder / file.name)
        content = {**self._content(record, test, trial), "schedule": text}
        write_json(folder / "result.json", {"goals": record, "test": test, "run": name, "trial": trial.number})
        write_page(folder / "report.html", content)
        logger.info(
            "written: %s: best.yaml, best.pt, %s, report.html", folder, file.name if file else "no exported file"
        )
        logger.info(
            "goals on validation data: %s; on %s: %s", record["verdict"], tested_on(test), (test or {}).get("verdict")
        )
        return record

    def _purpose(self, trial: Any, name: str) -> list[str]:
        """What the schedule is, and how long it trains."""
        subject, metric = self.trials.subject, self.trials.subject.metric[0]
        done = sum(each.state.is_finished() for each in self.study.get_trials(deepcopy=False))
        return [
            f"The best of {done} trials of the study {subject.folder.name} for the goals below: trial {trial.number}.",
            f"It starts from the run {subject.run}, whose {metric} is {subject.dense[0][metric]:.4f} (validation), and",
            f"trains {self.epochs} epochs; the study's own run of it is {name}.",
        ]

    def _command(self, trial: Any) -> str:
        subject, candidate = self.trials.subject, self._candidate(trial)
        rate = subject.checkpoint["options"]["lr"] * candidate.lr
        own = (f"--compress={subject.folder}/best.yaml", f"--start-from={subject.run}", f"--lr={rate:.6g}")
        return shlex.join(["python", "train.py", *subject.words(*own, f"--nEpochs={self.epochs}")])

    def _on_test(self, name: str) -> dict[str, Any] | None:
        """The goals on test data."""
        application = self.trials.subject.application
        words = [f"--run={name}", "--sense=none", f"--threads={self.trials.subject.threads}"]
        words += [f"--testdata={self.testdata}"] if self.testdata else []
        opt, checkpoint = find_subject(application.load("test_options")().parse(words))
        tester = application.load("tester")(opt, application.load("testing_loader")(opt, checkpoint), checkpoint)
        with quiet():
            found: dict[str, Any] | None = tester.run().get("goals")
        return found

    def _content(self, record: dict[str, Any], test: dict[str, Any] | None, winner: Any) -> dict[str, Any]:
        subject = self.trials.subject
        metric, higher = subject.metric
        dense = subject.dense[0][metric]
        return {
            "study": subject.folder.name, "goals": record, "test": test, "metric": metric, "higher_is_better": higher,
            "about": f"from run {subject.run}, whose {metric} is {dense:.4f}",
            "trials": [_row(each) for each in self.study.get_trials(deepcopy=False) if each.params],
            "bounds": bounds_of(self.trials.goals, metric, dense, higher), "importances": self._importances(winner),
            "prediction": [*map(_anchor, subject.latency.anchors), *_predicted(record, winner)],
            "command": self.command,
        }  # fmt: skip

    def _importances(self, winner: Any) -> dict[str, dict[str, float]]:
        """Optuna's, over all trials and over those of the winner's precision, which have its widths in common."""
        precision = winner.params["precision"]
        own = [name for name in winner.params if name != "precision"]
        found = {"all trials": self._importance(None), f"{precision} trials": self._importance(own)}
        return {name: each for name, each in found.items() if each}

    def _importance(self, names: list[str] | None) -> dict[str, float]:
        """Of the parameters that trials have in common, or of given ones; none where there are too few trials."""
        optuna = needed("optuna", PURPOSE)
        complete = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if sum(names is None or all(name in each.params for name in names) for each in complete) < ENOUGH:
            return {}
        try:
            with warnings.catch_warnings():  # of few trials
                warnings.simplefilter("ignore")
                return dict(optuna.importance.get_param_importances(self.study, params=names))
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}

    def _none(self) -> dict[str, Any]:
        """No candidate could be trained: how near the best came, and which goal binds."""
        states = needed("optuna", PURPOSE).trial.TrialState
        tried = [each for each in self.study.get_trials(deepcopy=False, states=(states.COMPLETE,)) if each.constraints]
        if not tried:
            failed = [each for each in self.study.get_trials(deepcopy=False) if "refused" in each.user_attrs]
            said = f"all {len(failed)} trials failed, the last one: {failed[-1].user_attrs['refused']}" if failed else \
                "no trial was finished in the time; give it more --minutes"  # fmt: skip
            return {"verdict": "not measured", "rows": [], "file": None, "error": said}
        missed = lambda each: each.user_attrs.get("exceeded", each.constraints)  # noqa: E731  constraints have slack
        near = min(tried, key=lambda each: max(missed(each).values()))
        goal, over = max(missed(near).items(), key=lambda each: each[1])
        said = f"no candidate is predicted to meet {goal}; trial {near.number} came nearest, {over:.1%} above the bound"
        return {"verdict": "missed", "rows": [], "file": None, "error": said}


def _by_certainty(near: Sequence[tuple[bool, Any]]) -> list[Any]:
    return [trial for _, trial in sorted(near, key=lambda each: each[0])]


def _figures(record: Mapping[str, Any], test: Mapping[str, Any] | None) -> list[str]:
    lines = []
    for where, each in (("validation data", record), (tested_on(test), test)):
        for row in (each or {}).get("rows", []):
            value = "not measured" if row["value"] is None else number(row["value"])
            lines.append(f"{row['goal']}: {value}, {row['verdict']}, on {where}")
    return lines


def _row(trial: Any) -> dict[str, Any]:
    last = max(trial.intermediate_values, default=None)
    costs = trial.user_attrs.get("costs", {})
    return {
        "trial": trial.number, "state": STATES.get(trial.state.name, trial.state.name.lower()), "epochs": last,
        "quality": trial.intermediate_values[last] if last else None, "untrained": trial.user_attrs.get("untrained"),
        "time": costs.get(LATENCY), "macs": costs.get("macs"),
        **{name: value for name, value in trial.params.items() if " width " not in name},
        "seconds": trial.user_attrs.get("seconds"), "refused": trial.user_attrs.get("refused", ""),
    }  # fmt: skip


def _anchor(anchor: Mapping[str, Any]) -> dict[str, Any]:
    share = "random widths" if anchor["share"] is None else f"{anchor['share']:g} of the channels"
    times = {"predicted": f"{anchor['predicted_ms']:.4g} ms", "measured": f"{anchor['ms']:.4g} ms"}
    return {"file": share, "precision": anchor["precision"], **times}


def _predicted(record: Mapping[str, Any], winner: Any) -> list[dict[str, Any]]:
    predicted = winner.user_attrs["costs"][LATENCY]
    return [
        {"file": f"the winner's, {row['goal']}", "precision": winner.params["precision"],
         "predicted": f"{predicted:.3f}", "measured": f"{row['value']:.3f}"}
        for row in record["rows"] if row["metric"] == LATENCY and row["value"] is not None
    ]  # fmt: skip

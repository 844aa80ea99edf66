"""The sensitivity analysis of `test.py`: its options, and the levels that it takes.

`SensitivityRequest`.
"""

import copy
import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from compress.analysis.sensitivity.analysis import Settings, measure_shares, sensitivity_analysis
from compress.analysis.sensitivity.changes import SenseType
from compress.analysis.sensitivity.evaluation import Evaluation, TestFunction
from compress.analysis.sensitivity.record import fingerprint
from compress.errors import UserError
from compress.io.optional import require
from engine.application import TestedApplication
from engine.search.shares import SharedCurves, worker_name
from options.base_options import TestConfig
from options.rules import of_remedies

logger = logging.getLogger("run")
COARSE, COARSE_BITS = (0.3, 0.5, 0.7, 0.9), (8.0, 4.0, 2.0)  # without --full
NONE = "none"


@dataclass(frozen=True)
class SensitivityRequest:
    """What the options ask for.

    Attributes:
        sense_type: of the analysis; `none` leaves it out.
        full: all levels.
        jobs: processes.
        tolerance: the loss allowed to each weight, in the first metric's unit; None: see
            `compress.analysis.sensitivity.suggestion.default_tolerance`.
        write: whether the suggestion is written as a schedule.
        data: `test` or `validation`, the images that are measured.
        queue: whether the curves are shared with every other process that is given the same command.
    """

    sense_type: str
    full: bool
    jobs: int
    tolerance: float | None
    write: bool
    data: str = "test"
    queue: bool = False

    @classmethod
    def of(cls, opt: TestConfig) -> "SensitivityRequest":
        """Reads the options; asked before anything is measured.

        Raises:
            UserError: two tolerances, or a value means nothing; what goes together is in options/rules.py.
        """
        tolerance, write = opt.tolerance, opt.write_schedule is not None and not of_remedies(opt)
        if write and opt.write_schedule is not None:
            tolerance = _tolerance(opt.write_schedule, opt.tolerance)
        return cls(opt.sense, opt.full, opt.jobs, tolerance, write, opt.sense_data, opt.sense_queue)

    @property
    def is_short(self) -> bool:
        """Whether it is a part of every evaluation, in this process: a few levels, and no other process takes part."""
        return self.sense_type != NONE and not self.full and self.jobs == 1 and not self.queue

    def run(self, tester: TestedApplication, model: nn.Module) -> pd.DataFrame | None:
        """Writes results/<run>/sensitivity_<type>.xlsx, .png, .json, and .yaml if asked; returns the table."""
        if self.sense_type == NONE:
            return None
        stem = tester.results / f"sensitivity_{self.sense_type}"
        coarse = COARSE_BITS if self.sense_type == "bits" else COARSE
        judge = tester
        if self.data == "validation":
            judge = copy.copy(tester)
            judge.testing_loader = tester.training_data()[1]
        data: Any = self.data
        settings = Settings(
            jobs=self.jobs,
            tolerance=self.tolerance,
            higher_is_better=tester.higher_is_better,
            schedule_file=Path(f"{stem}.yaml") if self.write else None,
            data=data,
            measured_on=judge.data_facts(),
            command=tester.config.schedule_command(tester.checkpoint),
        )
        test_func: TestFunction | Evaluation = judge.evaluation() or judge.test
        sense_type: Any | SenseType = self.sense_type
        levels = None if self.full else coarse
        if self.queue:
            if not self._shared(stem, model, test_func, levels, settings):
                return None
            settings = replace(settings, parts=sorted(stem.parent.glob(f"{stem.name}_part_*.json")))
        return sensitivity_analysis(model, stem.with_suffix(".xlsx"), test_func, sense_type, levels, settings)

    def _shared(self, stem: Path, model: nn.Module, test_func: Any, levels: Any, settings: Settings) -> bool:
        """Measures curves that no other process measures until none is left; whether all are measured now."""
        require("--sense-queue", "optuna", "filelock")
        sense_type: Any = self.sense_type
        facts = f"{fingerprint(model, sense_type)} {levels} {settings.measured_on}"
        queue = SharedCurves(Path(f"{stem}_queue_{hashlib.sha256(facts.encode()).hexdigest()[:8]}"))
        part = Path(f"{stem}_part_{worker_name()}.json")
        measure_shares(model, part, test_func, sense_type, queue.take, levels, settings)
        if left := queue.left:
            logger.info("sensitivity: other processes still measure %d curves; the last one puts all together", left)
        return not left


def _tolerance(text: str, other: float | None) -> float:
    """The number of `tolerance=0.1`."""
    name, _, number = text.partition("=")
    try:
        value = float(number if name == "tolerance" else text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise UserError(
            f"--write-schedule={text}: give tolerance=X, 0 or more in the metric's unit; nothing was started"
        )
    if other not in (None, value):
        raise UserError(
            f"--write-schedule={text} and --tolerance={other} contradict each other; give one; nothing was started"
        )
    return value

"""The sensitivity analysis of `test.py`: its options, and the levels that it takes.

`SensitivityRequest`.
"""

import copy
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from compress.analysis.sensitivity.analysis import Settings, sensitivity_analysis
from compress.analysis.sensitivity.changes import SenseType
from compress.analysis.sensitivity.evaluation import Evaluation, TestFunction
from compress.errors import UserError
from engine.application import TestedApplication
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
        weights: names or globs of the weights that are analysed, one machine's share; None: all, and what shares of
            other machines have measured is taken over.
    """

    sense_type: str
    full: bool
    jobs: int
    tolerance: float | None
    write: bool
    data: str = "test"
    weights: tuple[str, ...] | None = None

    @classmethod
    def of(cls, opt: TestConfig) -> "SensitivityRequest":
        """Reads the options; asked before anything is measured.

        Raises:
            UserError: two tolerances, or a value means nothing; what goes together is in options/rules.py.
        """
        tolerance, write = opt.tolerance, opt.write_schedule is not None and not of_remedies(opt)
        weights = None if opt.sense_weights is None else tuple(opt.sense_weights.split(","))
        if weights is not None and (opt.sense == NONE or write):
            given = "--sense=none" if opt.sense == NONE else "--write-schedule"
            raise UserError(
                f"--sense-weights analyses a share of the weights, which {given} has no use for; give that to the "
                "analysis that takes the shares together; nothing was started"
            )
        if write and opt.write_schedule is not None:
            tolerance = _tolerance(opt.write_schedule, opt.tolerance)
        return cls(opt.sense, opt.full, opt.jobs, tolerance, write, opt.sense_data, weights)

    def run(self, tester: TestedApplication, model: nn.Module) -> pd.DataFrame | None:
        """Writes results/<run>/sensitivity_<type>.xlsx, .png, .json, and .yaml if asked; returns the table."""
        if self.sense_type == NONE:
            return None
        whole = tester.results / f"sensitivity_{self.sense_type}"
        stem = whole if self.weights is None else Path(f"{whole}_part_{_slug(self.weights)}")
        parts = sorted(whole.parent.glob(f"{whole.name}_part_*.json")) if self.weights is None else []
        coarse = COARSE_BITS if self.sense_type == "bits" else COARSE
        judge = tester
        if self.data == "validation":
            judge = copy.copy(tester)
            judge.testing_loader = tester.training_data()[1]
        settings = Settings(
            weights=self.weights,
            parts=parts,
            jobs=self.jobs,
            tolerance=self.tolerance,
            higher_is_better=tester.higher_is_better,
            schedule_file=Path(f"{stem}.yaml") if self.write else None,
            data=self.data,
            measured_on=judge.data_facts(),
            command=tester.config.schedule_command(tester.checkpoint),
        )
        test_func: TestFunction | Evaluation = judge.evaluation() or judge.test
        sense_type: Any | SenseType = self.sense_type
        levels = None if self.full else coarse
        return sensitivity_analysis(model, stem.with_suffix(".xlsx"), test_func, sense_type, levels, settings)


def _slug(weights: tuple[str, ...]) -> str:
    """Selectors as a part of a file name, different for different ones: `layer1.*` -> `layer1-1a2b3c4d`."""
    text = ",".join(weights)
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].rstrip("-")
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


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

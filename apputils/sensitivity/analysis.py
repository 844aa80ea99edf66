"""The sensitivity analysis from the model to the files.

Here: the order of things. Not here: the parts. Called by `apputils.platform_summaries` and the tester.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import nn

SenseType = Literal["element", "filter", "channel", "bits"]
TestFunction = Callable[[nn.Module], float | Mapping[str, float]]


@dataclass(frozen=True)
class Settings:
    """How an analysis is done; none of it changes the numbers, except `stop_at_loss`, which leaves some out.

    Attributes:
        jobs: processes; each gets its share of the threads.
        tolerance: the loss that the suggestion allows each weight, in units of `metric`, >= 0; None: 1 % of the dense
            network's value.
        metric: the metric that the suggestion goes by; None: the first.
        higher_is_better: for each metric whether more of it is better; those left out are told by their names
            (`loss`, `error`, ... : lower).
        stop_at_loss: once a weight's loss of `metric` is above this, its further levels are left out; None: none is.
        cache_bytes: most memory of one process for values computed once and used again.
        resume: go on with a half-written analysis beside the workbook.
        schedule_file: where the suggestion is written as a schedule; None: nowhere.
        optform: the application, for the command in that schedule's header.
    """

    jobs: int = 1
    tolerance: float | None = None
    metric: str | None = None
    higher_is_better: Mapping[str, bool] | None = None
    stop_at_loss: float | None = None
    cache_bytes: int = 2**30
    resume: bool = True
    schedule_file: Path | None = None
    optform: str = "SR"


def sensitivity_analysis(
    model: nn.Module,
    sensitivity_file: str | Path,
    test_func: TestFunction,
    sense_type: SenseType = "element",
    levels: Sequence[float] | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Changes one weight at a time to each level, measures, restores it; writes a workbook and a picture.

    Args:
        model: the network; its weights are changed in place and are bit for bit as before afterwards.
        sensitivity_file: the workbook, `.xlsx`; the picture (`.png`) and the record (`.json`) stand beside it.
        test_func: network -> a number, or named metrics. An `Evaluation` (evaluation.py), which is also such a
            function, is measured several times faster.
        sense_type: `element`, `filter` or `channel` prune by magnitude or L1 norm; `bits` quantizes.
        levels: fractions of zeros, [0, 1); numbers of bits, 2 to 16, for `bits`. Default: 0 to 0.95 by 0.05; 8, 6, 4,
            3, 2. The dense network is always measured.
        settings: the rest.

    Returns:
        one row a weight and level: `weight`, `level`, `zeros` (fraction of zeros in the weight), and a column a metric;
        the dense network is level 0 (32 bits).
    """
    raise NotImplementedError

"""The ladder: post-training settings from the cheapest on, until the metric holds.

The rungs and `climb_ladder`.

    ladder = climb_ladder(model, batches, lambda network: float_psnr - psnr(network), max_drop=0.1)
    ladder.chosen.name, ladder.chosen.drop
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from compress.arguments.checked import checks_arguments
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer

logger = logging.getLogger("compress")
_STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("min-max", {}),
    ("+ per channel", {"per_channel_wts": True}),
    ("+ MSE ranges", {"clip_acts": "MSE", "also_clip_weights": True}),
    ("+ bias correction", {"bias_correction": True}),
    ("+ equalization", {"equalization": True}),
    ("+ GPTQ", {"gptq": True}),
    ("AdaRound in its place", {"gptq": False, "adaround": True}),
)


def rungs(base: Mapping[str, Any] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(name, arguments of `PostTrainLinearQuantizer`), cheapest first; each has what the one before has.

    Args:
        base: arguments of all rungs, such as bits.
    """
    settings, found = dict(base or {}), []
    for name, more in _STEPS:
        settings = {**settings, **more}
        found.append((name, settings))
    return found


@dataclass(frozen=True)
class Rung:
    """One setting, tried.

    Attributes:
        name: what it adds to the one before.
        arguments: of the quantizer.
        drop: how much worse than float, in the metric's unit; negative is better.
        seconds: to quantize.
    """

    name: str
    arguments: dict[str, Any]
    drop: float
    seconds: float


@dataclass
class Ladder:
    """What was tried.

    Attributes:
        tried: in order; rungs above the chosen one were not tried.
        chosen: the first within `max_drop`; the least bad one if none was.
        network: the quantized network of the chosen rung.
        quantizer: that made it.
        within: whether the chosen one is within `max_drop`.
    """

    tried: list[Rung] = field(default_factory=list)
    chosen: Rung | None = None
    network: nn.Module | None = None
    quantizer: PostTrainLinearQuantizer | None = None
    within: bool = False


@checks_arguments
def climb_ladder(
    model: nn.Module,
    batches: Sequence[Any],
    drop_of: Callable[[nn.Module], float],
    max_drop: Annotated[float, Field(allow_inf_nan=False)],
    base: Mapping[str, Any] | None = None,
) -> Ladder:
    """Tries the rungs in order and stops at the first whose drop is at most `max_drop`.

    Args:
        model: float; it stays as it was.
        batches: calibration data; see `PostTrainLinearQuantizer.quantize`.
        drop_of: quantized network -> how much worse than float it is; NaN counts as infinitely worse.
        max_drop: allowed, in the same unit.
        base: arguments of all rungs.
    """
    ladder, all_rungs = Ladder(), rungs(base)
    for i, (name, arguments) in enumerate(all_rungs):
        started = time.perf_counter()
        quantizer = PostTrainLinearQuantizer(**arguments)
        network = quantizer.quantize(model, batches)
        seconds = time.perf_counter() - started
        drop = drop_of(network)
        rung = Rung(name, arguments, math.inf if math.isnan(drop) else drop, seconds)
        ladder.tried.append(rung)
        logger.info("rung %d of %d, %s: drop %.4g (allowed %.4g)", i + 1, len(all_rungs), name, rung.drop, max_drop)
        if ladder.chosen is None or rung.drop < ladder.chosen.drop:
            ladder.chosen, ladder.network, ladder.quantizer = rung, network, quantizer
        if rung.drop <= max_drop:
            ladder.within = True
            break
    return ladder

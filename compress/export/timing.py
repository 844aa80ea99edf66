"""How long networks and their files take, in PyTorch and in onnxruntime, all in turns in one process.

Which ways are timed, what they refer to, how it is written. Called by the tester (the network beside the dense one)
and by comparisons.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import Tensor, nn

from compress.export.latency import MOST_TIMES, Latency, Way, measure_latency, onnx_way, torch_threads, torch_way
from compress.export.machine_load import OthersLoad
from compress.export.runtimes.base import milliseconds_text

STEADY = 0.03  # spread of quartiles that more rounds make no narrower
RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Timing:
    """How time is taken.

    Attributes:
        rounds: turns of each way, >= 2.
        seconds: least time of a turn.
        threads: of torch and of onnxruntime alike.
        spread: of a ratio's quartiles, as a fraction of it, above which rounds are added; see `measure_latency`.
        patience: seconds after which none is added any more, which a machine that stays busy would go on for.
        processor: of `measure_runtimes`: processor time instead of the clock's, which leaves out what other processes
            do meanwhile; for one thread.
        least: rounds after which it may end, >= 2: where the quartiles of no ratio are further apart than `STEADY`;
            None: those asked for.
    """

    rounds: int = 7
    seconds: float = 0.05
    threads: int = 1
    spread: float = 0.1
    patience: float = 6.0
    processor: bool = False
    least: int | None = None


BENCHMARK = Timing(rounds=30, seconds=0.2, patience=math.inf)  # what --benchmark asks for


@dataclass(frozen=True)
class Timed:
    """What is timed.

    Attributes:
        name: no two have the same.
        model: for PyTorch; None leaves that out.
        inputs: of one forward pass, on the model's device.
        file: for onnxruntime; None leaves that out.
    """

    name: str
    model: nn.Module | None
    inputs: tuple[Tensor, ...]
    file: Path | None


def time_rows(subjects: Sequence[Timed], timing: Timing) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row a subject, in their order, and how it was measured.

    Returns:
        for each runtime RUNTIME_ms: median over the rounds; RUNTIME_low, RUNTIME_high: quartiles; RUNTIME_ratio: median
        over the rounds of this one's time / that of the first subject in the same runtime and round, and its quartiles
        RUNTIME_ratio_low, RUNTIME_ratio_high; all None where there is no model or file. And `rounds` as they were,
        `seconds`, `threads`, `others_cores`: what other processes used of the machine meanwhile.
    """
    ways: dict[str, Way] = {}
    first: dict[str, str] = {}
    with torch_threads(timing.threads):
        for each in subjects:
            found = {} if each.model is None else {"torch": torch_way(each.model, each.inputs)}
            if each.file is not None:
                found["onnxruntime"] = onnx_way(each.file, each.inputs, timing.threads)
            for runtime, way in found.items():
                name = _way(each.name, runtime)
                ways[name] = way
                first.setdefault(runtime, name)
        against = {name: first[runtime] for runtime in first for name in ways if name.endswith(f" in {runtime}")}
        with OthersLoad() as others:
            rounds, most = timing.least or timing.rounds, MOST_TIMES * timing.rounds
            taken = measure_latency(ways, rounds, timing.seconds, against, None, _enough(timing), most)
    rounds = next(iter(taken.values())).rounds
    how = {"rounds": rounds, "seconds": timing.seconds, "threads": timing.threads, "others_cores": others.cores}
    return [_row(each.name, taken) for each in subjects], how


def _enough(timing: Timing) -> Callable[[dict[str, Latency]], bool]:
    """Whether the ratios are as close together as asked for, or the patience has ended; before its rounds: steady."""
    started = time.perf_counter()

    def enough(found: dict[str, Latency]) -> bool:
        if any(each.rounds < timing.rounds for each in found.values()):
            return all(each.ratio_spread <= STEADY for each in found.values())
        late = time.perf_counter() - started > timing.patience
        return late or all(each.ratio_spread <= timing.spread for each in found.values())

    return enough


def time_text(row: Mapping[str, Any], runtime: str) -> str:
    """`1.25 [1.2, 1.31] (0.65x)`: median and quartiles in milliseconds, and the ratio; `-` where there is none."""
    if row[f"{runtime}_ms"] is None:
        return "-"
    middle, low, high = (milliseconds_text(row[f"{runtime}_{key}"], 4) for key in ("ms", "low", "high"))
    return f"{middle} [{low}, {high}] ({row[f'{runtime}_ratio']:.2f}x)"


def threads_text(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'' if count == 1 else 's'}"


def times_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows, each with its `name`, for a screen."""
    lines = [[row["name"], *(time_text(row, runtime) for runtime in RUNTIMES)] for row in rows]
    return tabulate(lines, ["latency", *(f"{runtime}, ms" for runtime in RUNTIMES)], disable_numparse=True)


def _row(name: str, taken: dict[str, Latency]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for runtime in RUNTIMES:
        latency = taken.get(_way(name, runtime))
        row[f"{runtime}_ms"] = latency and latency.milliseconds
        for part in ("low", "high", "ratio", "ratio_low", "ratio_high"):
            row[f"{runtime}_{part}"] = latency and getattr(latency, part)
    return row


def _way(name: str, runtime: str) -> str:
    return f"{name} in {runtime}"

"""How long the candidates take, in PyTorch and in onnxruntime, all in turns in one process.

Here: which ways are timed and what they refer to. Not here: the clock (apputils/latency.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apputils.compare.candidate import Candidate
from apputils.latency import Latency, Way, measure_latency, onnx_way, torch_threads, torch_way

RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Timing:
    """How time is taken.

    Attributes:
        rounds: turns of each way, >= 2.
        seconds: least time of a turn.
        threads: of torch and of onnxruntime alike.
    """

    rounds: int = 7
    seconds: float = 0.05
    threads: int = 1


BENCHMARK = Timing(rounds=30, seconds=0.2)  # what --benchmark asks for


def time_rows(candidates: Sequence[Candidate], timing: Timing) -> list[dict[str, Any]]:
    """One row a candidate, in their order.

    Returns:
        for each runtime RUNTIME_ms: median over the rounds; RUNTIME_low, RUNTIME_high: quartiles; RUNTIME_ratio: median
        over the rounds of this one's time / that of the first candidate in the same runtime and round; all None where
        there is no file.
    """
    ways: dict[str, Way] = {}
    first: dict[str, str] = {}
    with torch_threads(timing.threads):
        for each in candidates:
            found = {"torch": torch_way(each.model, each.inputs)}
            if each.file is not None:
                found["onnxruntime"] = onnx_way(each.file, each.inputs, timing.threads)
            for runtime, way in found.items():
                name = _way(each.name, runtime)
                ways[name] = way
                first.setdefault(runtime, name)
        against = {name: first[runtime] for runtime in first for name in ways if name.endswith(f" in {runtime}")}
        taken = measure_latency(ways, timing.rounds, timing.seconds, against)
    return [_row(each.name, taken) for each in candidates]


def _row(name: str, taken: dict[str, Latency]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for runtime in RUNTIMES:
        latency = taken.get(_way(name, runtime))
        row[f"{runtime}_ms"] = latency and latency.milliseconds
        row[f"{runtime}_low"] = latency and latency.low
        row[f"{runtime}_high"] = latency and latency.high
        row[f"{runtime}_ratio"] = latency and latency.ratio
    return row


def _way(name: str, runtime: str) -> str:
    return f"{name} in {runtime}"

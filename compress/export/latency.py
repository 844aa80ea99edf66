"""How long a forward pass takes: honest figures on a machine that others use too.

`measure_latency` times several ways that take turns in one process, and `torch_way` / `onnx_way` make ways of
networks and files. Called by the exporters, the reports and the benchmarks.

Every way is warmed up, then the ways take turns in rounds; a ratio is made of two times of the same round, so that
what slows the machine down for a while slows both. Numbers are medians over rounds, with quartiles beside them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.arguments.checked import checks_arguments
from compress.errors import UserError, did_you_mean
from compress.export.onnx.session import open_session

Way = Callable[[], object]
MOST_TIMES = 4  # the rounds asked for, where quartiles stay wide


@dataclass(frozen=True)
class Latency:
    """Time of one call of one way.

    Attributes:
        milliseconds: median over the rounds.
        low: first quartile, in milliseconds.
        high: third quartile, in milliseconds.
        ratio: median over the rounds of this way's time / the first way's time of the same round (or another's that
            was asked for).
        ratio_low: first quartile of that ratio.
        ratio_high: third quartile of that ratio.
        rounds: how many rounds.
        calls: calls of this way within a round.
    """

    milliseconds: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    calls: int

    @property
    def ratio_spread(self) -> float:
        """How far the ratio's quartiles are apart, as a fraction of it."""
        return (self.ratio_high - self.ratio_low) / self.ratio

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.milliseconds:.3g} ms [{self.low:.3g}, {self.high:.3g}], "
            f"ratio {self.ratio:.3f} [{self.ratio_low:.3f}, {self.ratio_high:.3f}]"
        )


class Turn:
    """A way that is timed elsewhere, such as in another process, which a call's own time would only add to."""

    def __call__(self) -> object:
        """Runs it once."""
        return self.seconds(1)

    def seconds(self, calls: int) -> float:
        """Mean time of so many calls, as the other side has measured it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rounds:
    """Times of ways that took turns.

    Attributes:
        seconds: way -> mean time of a call, one a round.
        calls: way -> calls within a round.
    """

    seconds: dict[str, list[float]]
    calls: dict[str, int]

    def latency(self, name: str, against: str) -> Latency:
        """Of one way, its ratio round by round to another's."""
        return _latency(self.seconds[name], self.seconds[against], self.calls[name])


@checks_arguments
def measure_latency(
    ways: Mapping[str, Way],
    rounds: Annotated[int, Field(ge=2)] = 15,
    seconds: Annotated[float, Field(ge=0.0)] = 0.05,
    against: Mapping[str, str] | None = None,
    spread: float | None = None,
    enough: Callable[[dict[str, Latency]], bool] | None = None,
    most_rounds: int | None = None,
) -> dict[str, Latency]:
    """Times ways that do the same, in turns; arguments and errors as `take_turns`'."""
    names = list(ways)
    taken = take_turns(ways, rounds, seconds, against, spread, enough, most_rounds)
    return {name: taken.latency(name, (against or {}).get(name, names[0])) for name in names}


def take_turns(
    ways: Mapping[str, Way],
    rounds: int = 15,
    seconds: float = 0.05,
    against: Mapping[str, str] | None = None,
    spread: float | None = None,
    enough: Callable[[dict[str, Latency]], bool] | None = None,
    most_rounds: int | None = None,
) -> Rounds:
    """Times ways in rounds.

    Args:
        ways: name -> function without arguments; the first is what the others' ratios refer to.
        rounds: how many times each way has its turn, >= 2; who begins changes from round to round.
        seconds: least time of a turn; a way is called as often as that needs (found out while warming up).
        against: name -> name of the way that its ratio refers to, for those that do not refer to the first.
        spread: continue, for at most `MOST_TIMES` as many rounds, while a ratio's quartiles are further apart than this
            fraction of it; None: the rounds asked for and no more.
        enough: the same by a function of what was found so far; continues while it is False.
        most_rounds: the bound of both, instead of `MOST_TIMES` as many.

    Raises:
        ValueError: no ways, fewer than two rounds, or `against` names no way.
    """
    if not ways or rounds < 2:
        raise ValueError("measure_latency needs at least one way and two rounds")
    names = list(ways)
    for other in (each for pair in (against or {}).items() for each in pair if each not in ways):
        raise ValueError(f"against: {other!r} is none of the ways; {did_you_mean(other, ways)}")
    taken = Rounds({name: [] for name in names}, {name: _warm_up(way, seconds) for name, way in ways.items()})
    reference = {name: (against or {}).get(name, names[0]) for name in names}
    done = enough or (lambda each: spread is None or all(one.ratio_spread <= spread for one in each.values()))
    for i in range(max(rounds, most_rounds or MOST_TIMES * rounds)):
        # Who runs first pays for what the others left in the caches, so each begins in turn.
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            taken.seconds[name].append(_seconds(ways[name], taken.calls[name]))
        if i + 1 >= rounds and done({name: taken.latency(name, reference[name]) for name in names}):
            break
    return taken


@checks_arguments
def torch_way(model: nn.Module, inputs: tuple[Tensor, ...]) -> Way:
    """A forward pass of a network, which is put into eval mode, without gradients; waits for the GPU if there is one.

    Its threads are torch's (`torch.set_num_threads`, or `torch_threads` around the measurement).
    """
    model.eval()

    @torch.inference_mode()
    def forward() -> object:
        output = model(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        return output

    return forward


@checks_arguments
def onnx_way(file: Path | str, inputs: tuple[Tensor, ...], threads: Annotated[int, Field(ge=1)] | None = 1) -> Way:
    """A run of an ONNX file in onnxruntime on the CPU.

    Args:
        file: the file.
        inputs: as the file's inputs, in order.
        threads: of this session; None leaves it to onnxruntime.

    Raises:
        UserError: onnxruntime is missing, it refuses the file, or the file takes another number of inputs.
    """
    session = open_session(file, threads=threads)
    if len(names := [each.name for each in session.get_inputs()]) != len(inputs):
        raise UserError(f"{file} takes {len(names)} inputs ({', '.join(names)}), and {len(inputs)} are given")
    feeds = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feeds)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch's CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _warm_up(way: Way, seconds: float) -> int:
    """Calls a way at least twice and for `seconds`; how many calls fill `seconds` from then on."""
    way()
    started, count = time.perf_counter(), 0
    while count < 1 or time.perf_counter() - started < seconds:
        way()
        count += 1
    return max(1, round(seconds * count / (time.perf_counter() - started)))


def _seconds(way: Way, calls: int) -> float:
    if isinstance(way, Turn):
        return way.seconds(calls)
    started = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - started) / calls


def _latency(own: list[float], first: list[float], calls: int) -> Latency:
    # Round by round, then the median: a ratio of two medians would mix times of a quiet and a busy moment.
    ratios = [a / b for a, b in zip(own, first, strict=True)]
    low, middle, high = (1000 * x for x in statistics.quantiles(own, n=4, method="inclusive"))
    return Latency(middle, low, high, *_middle_first(ratios), rounds=len(own), calls=calls)


def _middle_first(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high

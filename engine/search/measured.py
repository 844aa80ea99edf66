"""The measured time of a trial's network beside the dense one's, before it is trained whole: `Stopwatch`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from compress.goals.goal import LATENCY, Goal
from compress.goals.latency import measure_ratio
from engine.goals.packing import export_packed
from engine.search.subject import Subject

MOST_ROUNDS = 60  # the winner's own goals are measured for longer


@dataclass(frozen=True)
class Stopwatch:
    """Measures exported files of trials.

    Attributes:
        subject: the dense network.
        goals: those about time count here.
        folder: a temporary one, for files.
    """

    subject: Subject
    goals: Sequence[Goal]
    folder: Path

    @cached_property
    def _dense(self) -> Path:
        return self._exported(self.subject.network, "dense")

    def _exported(self, network: nn.Module, name: str) -> Path:
        file, inputs = self.folder / f"{name}.onnx", self.subject.inputs
        export_packed(self.goals, network, file, inputs, [inputs])
        return file

    def ratios(self, network: Callable[[], nn.Module]) -> dict[str, tuple[float, float]]:
        """Goal -> the measured share of the dense time and its noise, of the goals about time on this machine.

        Args:
            network: gives a trial's network, thinned and quantized, on the CPU; time does not depend on weights.
        """
        goals = [goal for goal in self.goals if goal.metric == LATENCY and goal.device is None]
        if not goals:
            return {}
        file = self._exported(network(), "own")
        found: dict[str, tuple[float, float]] = {}
        for goal in goals:
            value = measure_ratio(
                file, self._dense, self.subject.inputs, str(goal.runtime), goal.bound, threads=self.subject.threads,
                most_rounds=MOST_ROUNDS,
            )  # fmt: skip
            found[str(goal)] = value.number, value.noise
        return found


def excess(goals: Sequence[Goal], ratios: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """By how much, as a share of the bound, the worst of the measured times exceeds it, less its noise and with it.

    A first value above 0 misses, a second one of 0 or less meets; between them it is undecided.
    """
    bounds = {str(goal): goal.bound for goal in goals}
    least, largest = (
        max(((ratio + sign * noise) / bounds[name] - 1 for name, (ratio, noise) in ratios.items()), default=0.0)
        for sign in (-1, 1)
    )
    return least, largest

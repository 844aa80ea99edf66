"""How much by now: the fraction that an algorithm is asked for at an epoch.

Level objects that ranked pruners compose in. Pure functions of the epoch and the policy's window, so that a plan can
be drawn without training.

Wherever a schedule asks for a level (`desired_sparsity`, the values of `levels`), it may write a number, which is
a `ConstantLevel`, or one of the classes below in place:

    desired_sparsity: 0.5
    desired_sparsity: {class: LinearLevel, initial_sparsity: 0.1, final_sparsity: 0.5}
    desired_sparsity: {class: StepsLevel, steps: {0: 0.2, 10: 0.4, 20: 0.5}}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field

from compress.arguments.checked import CheckedArguments
from compress.epoch_window import EpochWindow
from compress.registry import LEVELS, InstanceOf

Sparsity = Annotated[float, Field(ge=0.0, le=1.0)]
LevelArgument = Sparsity | Annotated[dict[str, Any], InstanceOf(LEVELS)]


@runtime_checkable
class Level(Protocol):
    """A fraction in [0, 1] as a function of time."""

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The fraction asked for at `epoch` by a policy with that window."""
        ...


@LEVELS.register
@dataclass(frozen=True)
class ConstantLevel(CheckedArguments):
    """The same fraction whenever the policy fires.

    Attributes:
        sparsity: fraction of zeros, [0, 1].
    """

    sparsity: Sparsity

    def at(self, epoch: int, window: EpochWindow) -> float:
        """`sparsity`."""
        return self.sparsity


@LEVELS.register
@dataclass(frozen=True)
class AgpLevel(CheckedArguments):
    """Automated gradual pruning: fast at first, slow at the end (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1).

        s = s_f + (s_i - s_f) * (1 - (t - t_0) / (n dt))^3

    with t_0 the first firing epoch and n dt the distance to the last one, so that the last firing epoch
    reaches `final_sparsity` exactly, whatever the frequency. A window with one firing epoch goes straight to it.

    Attributes:
        initial_sparsity: fraction of zeros at the first firing epoch, [0, 1).
        final_sparsity: fraction of zeros at the last one, (0, 1].

    Raises:
        ValueError: final sparsity is not above initial.
    """

    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)]
    final_sparsity: Annotated[float, Field(gt=0.0, le=1.0)]

    def __post_init__(self) -> None:
        if self.final_sparsity <= self.initial_sparsity:
            raise ValueError(
                f"final_sparsity {self.final_sparsity} must be above initial_sparsity {self.initial_sparsity}: "
                "AGP only grows"
            )

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The cubic level at `epoch`."""
        return _between(self.final_sparsity, self.initial_sparsity, (1.0 - window.progress(epoch)) ** 3)


@LEVELS.register
@dataclass(frozen=True)
class LinearLevel(CheckedArguments):
    """The same step up (or down) at each firing epoch.

    Attributes:
        initial_sparsity: fraction of zeros at the first firing epoch, [0, 1].
        final_sparsity: fraction of zeros at the last one, [0, 1].
    """

    initial_sparsity: Sparsity
    final_sparsity: Sparsity

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The level on the straight line."""
        return _between(self.final_sparsity, self.initial_sparsity, 1.0 - window.progress(epoch))


@LEVELS.register
@dataclass(frozen=True)
class ExponentialLevel(CheckedArguments):
    """Keeps the same share of what is left at each firing epoch: 1 - s falls geometrically.

        1 - s = (1 - s_i) * ((1 - s_f) / (1 - s_i)) ^ progress

    which is what pruning 20 % of the remaining weights in each round comes to.

    Attributes:
        initial_sparsity: fraction of zeros at the first firing epoch, [0, 1).
        final_sparsity: fraction of zeros at the last one, [0, 1).
    """

    initial_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)]
    final_sparsity: Annotated[float, Field(ge=0.0, lt=1.0)]

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The level on the exponential; both ends come out exactly."""
        progress = window.progress(epoch)
        if progress in (0.0, 1.0):
            return self.final_sparsity if progress else self.initial_sparsity
        kept = 1.0 - self.initial_sparsity
        return 1.0 - kept * ((1.0 - self.final_sparsity) / kept) ** progress


@LEVELS.register
@dataclass(frozen=True)
class StepsLevel(CheckedArguments):
    """A staircase by absolute epochs.

    Attributes:
        steps: epoch (0 or later) -> fraction of zeros from then on, [0, 1]; before the first it is 0.

    Raises:
        ValueError: no step is given, or an epoch is negative.
    """

    steps: dict[int, Sparsity]

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 0:
            raise ValueError(f"steps {self.steps} must name at least one epoch, each 0 or later")

    def at(self, epoch: int, window: EpochWindow) -> float:
        """The level of the latest step that has come."""
        return self.steps[max(past)] if (past := [step for step in self.steps if step <= epoch]) else 0.0


def as_level(given: float | Mapping[str, Any] | Level) -> Level:
    """What a schedule wrote for a level -> the level: a number, `{class: CLASS, ...}`, or a level already."""
    if isinstance(given, Level):
        return given
    if isinstance(given, Mapping):
        arguments = {key: value for key, value in given.items() if key != "class"}
        level: Level = LEVELS.get(given["class"])(**arguments)
        return level
    return ConstantLevel(float(given))


def _between(final: float, initial: float, left: float) -> float:
    """A weighted mean, so that both ends come out exactly and not as 0.04999..."""
    return final * (1.0 - left) + initial * left

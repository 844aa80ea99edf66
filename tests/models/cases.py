"""The form of an application's cases, which are its module `tests/models/<name>/cases.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Refused = list[tuple[list[str], str]]  # arguments -> a pattern of the message


@dataclass(frozen=True)
class Cases:
    """What generic tests need to know of an application.

    Attributes:
        small_run: arguments of a run of seconds, on the images of `images/train` and `images/val`.
        schedules: number of schedules in schedules/<name>/, so that none is missed; not those of post-training.
        refused: `train_options` or `test_options` -> arguments that the application's rules refuse, one or more a rule.
        beyond: the same -> arguments with a value that cannot work.
        small: architecture -> arguments of a network that is quick to run; none: tests of its own look at them.
        data: those of `small_run` that suit every architecture.
    """

    small_run: list[str]
    schedules: int
    refused: dict[str, Refused] = field(default_factory=dict)
    beyond: dict[str, Refused] = field(default_factory=dict)
    small: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)

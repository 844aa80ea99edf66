"""Measuring a network with one weight changed: the plain way.

Here: `Meter`, what every way offers; `PlainMeter`, which changes the weight in place and calls the test function; and
the choice. Not here: the fast way (replay.py).
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from apputils.sensitivity.changes import Subject
from apputils.sensitivity.evaluation import TestFunction, as_metrics

logger = logging.getLogger("run")
Metrics = dict[str, float]


class Meter(ABC):
    """Measures a network; between two calls the network is bit for bit as it was."""

    @abstractmethod
    def dense(self) -> Metrics:
        """The metrics of the network as it is."""

    @abstractmethod
    def changed(self, subject: Subject, value: Tensor) -> Metrics:
        """The metrics with one weight replaced by a value of its shape."""

    def order(self, subjects: Sequence[Subject]) -> list[Subject]:
        """The order in which weights are measured fastest."""
        return list(subjects)


class PlainMeter(Meter):
    """Calls a test function with the weight changed in place."""

    def __init__(self, model: nn.Module, test_func: TestFunction) -> None:
        self.model, self.test_func = model, test_func

    def dense(self) -> Metrics:
        """One call."""
        return as_metrics(self.test_func(self.model))

    def changed(self, subject: Subject, value: Tensor) -> Metrics:
        """One call with the value in the weight's place."""
        with in_place(subject.parameter, value):
            return as_metrics(self.test_func(self.model))


@contextlib.contextmanager
def in_place(parameter: nn.Parameter, value: Tensor) -> Iterator[None]:
    """Gives a parameter a value; afterwards it has its own again, bit for bit, whatever happened."""
    own = parameter.detach().clone()
    try:
        _write(parameter, value)
        yield
    finally:
        _write(parameter, own)


@torch.no_grad()
def _write(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)

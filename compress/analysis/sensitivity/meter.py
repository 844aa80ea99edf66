"""Measuring a network with one weight changed: the plain way.

`Meter`, what every way offers; `PlainMeter`, which changes the weight in place and calls the test function; and the
choice.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.analysis.sensitivity.changes import Subject
from compress.analysis.sensitivity.evaluation import TestFunction, as_metrics

logger = logging.getLogger("run")
Metrics = dict[str, float]


class Meter(ABC):
    """Measures a network; between two calls the network is bit for bit as it was."""

    @abstractmethod
    def dense(self) -> Metrics:
        """The metrics of the network as it is."""

    @abstractmethod
    def changed(self, subject: Subject, value: Tensor, others: Mapping[str, Tensor] | None = None) -> Metrics:
        """The metrics with one weight replaced by a value of its shape.

        Args:
            subject: the weight.
            value: of its shape.
            others: new values of parameters of `subject.coupled`, by name.
        """

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

    def changed(self, subject: Subject, value: Tensor, others: Mapping[str, Tensor] | None = None) -> Metrics:
        """One call with the values in the parameters' places."""
        with in_place(subject.parameters, {subject.name: value, **(others or {})}):
            return as_metrics(self.test_func(self.model))


@contextlib.contextmanager
def in_place(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Gives parameters values; afterwards they have their own again, bit for bit, whatever happened."""
    own = {name: parameters[name].detach().clone() for name in values}
    try:
        _write(parameters, values)
        yield
    finally:
        _write(parameters, own)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)

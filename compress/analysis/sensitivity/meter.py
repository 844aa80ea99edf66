"""Measuring a network with one weight changed: the plain way.

`Meter`, what every way offers; `PlainMeter`, which changes the weight in place and calls the test function; and the
choice.
"""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.analysis.sensitivity.changes import Subject
from compress.analysis.sensitivity.evaluation import TestFunction, as_metrics
from compress.graph.modes import uncached_autocast

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
        with same_state(self.model):
            return as_metrics(self.test_func(self.model))

    def changed(self, subject: Subject, value: Tensor, others: Mapping[str, Tensor] | None = None) -> Metrics:
        """One call with the values in the parameters' places."""
        with in_place(subject.parameters, {subject.name: value, **(others or {})}):
            return self.dense()


@contextlib.contextmanager
def in_place(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Gives parameters values; afterwards they have their own again, bit for bit, whatever happened."""
    own = {name: parameters[name].detach().clone() for name in values}
    try:
        _write(parameters, values)
        with uncached_autocast():
            yield
    finally:
        _write(parameters, own)


@contextlib.contextmanager
def same_state(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers that the network writes while it is evaluated, such as a moving average, are put back."""
    tables: list[dict[str, Any]] = [own for each in model.modules() for own in (each._parameters, each._buffers)]
    owners = [(own, dict(own)) for own in tables]
    tensors = list({id(each): each for own, _ in owners for each in own.values() if each is not None}.values())
    values = [(each, each.data, each.detach().clone()) for each in tensors if not each.is_meta]
    try:
        yield
    finally:
        for own, before in owners:
            if len(own) != len(before) or any(own.get(name) is not each for name, each in before.items()):
                own.clear()
                own.update(before)
        for tensor, data, value in values:
            _put_back(tensor, data, value)


def _put_back(tensor: Tensor, data: Tensor, value: Tensor) -> None:
    if tensor.layout is torch.strided and (tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape):
        tensor.data = data
    if tensor.layout is torch.strided and not torch.equal(tensor, value):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(value)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)

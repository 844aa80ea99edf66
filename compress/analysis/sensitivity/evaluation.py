"""What an analysis measures: a plain function of the network, or an evaluation taken apart.

`Evaluation`, and reading what a function returns. Testers offer an `Evaluation`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compress.errors import UserError
from compress.graph.calls import run_on

TestFunction = Callable[[nn.Module], float | Mapping[str, float]]
LOWER_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "perplexity", "ppl", "lpips", "nll")
ONLY = "quality"  # the name of a plain number


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as data: the network's inputs, and the metrics of its outputs.

    It is also a function of the network, so that it can be given wherever one is asked for.

        Evaluation(minibatches, lambda outputs: {"top1": top1(torch.cat(list(outputs)), labels)})

    Attributes:
        inputs: one entry a batch: a tensor, or the tuple of the positional arguments of `forward`; on the network's
            device.
        measure: the outputs, batch by batch in that order (an iterator: each is made when it is asked for) -> metrics.
        higher_is_better: for each metric; those left out are recognized by their names.
    """

    inputs: Sequence[Any]
    measure: Callable[[Iterable[Any]], float | Mapping[str, float]]
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The metrics of a network in evaluation mode, which is put back."""
        with evaluating(model):
            return as_metrics(self.measure(run_on(model, each) for each in self.inputs))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def as_metrics(result: Any) -> dict[str, float]:
    """What a test function returned, as named numbers; a lone number is called `quality`.

    Raises:
        UserError: it is neither a number nor named numbers.
    """
    named = result if isinstance(result, Mapping) else {ONLY: result}
    try:
        metrics = {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError) as e:
        raise UserError(
            f"test_func returned {type(result).__name__}; it must return a number or a dict of named numbers"
        ) from e
    if not metrics:
        raise UserError("test_func returned an empty dict; it must return a number or a dict of named numbers")
    return metrics


def directions(metrics: Iterable[str], given: Mapping[str, bool] | None) -> dict[str, bool]:
    """For each metric whether higher is better: as given, else by its name."""
    told = given or {}
    return {name: told.get(name, not any(word in _words(name) for word in LOWER_IS_BETTER)) for name in metrics}


def loss_of(value: float, dense: float, higher_is_better: bool) -> float:
    """How much worse than dense, in the metric's unit; negative is better; NaN counts as infinitely worse."""
    if value == dense:
        return 0.0  # also when both are infinite
    difference = dense - value if higher_is_better else value - dense
    return math.inf if math.isnan(difference) else difference


def _words(name: str) -> list[str]:
    return name.lower().replace("-", "_").replace(" ", "_").replace("/", "_").split("_")

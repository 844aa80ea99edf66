"""BatchNorm statistics of a network that was changed after training.

`reestimate_batch_norm`: anew, from data that are as many and as varied as those of training. `carry_batch_norm`: by
what a change makes of them, on any data.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.calibration.replay import first_input
from compress.errors import UserError
from compress.graph.calls import run_on
from compress.parameters import HALVES, copied

NOTHING = 1e-6  # of a channel's variance, below which the data tell nothing of it
EPS = 1e-5
SAME = 1e-2  # share of an output's norm; 16-bit numbers are no better
TOO_SMALL = (
    "the statistics of BatchNorm cannot be estimated again, give larger minibatches: more than 1 value per channel is "
    "needed"
)


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, batches: Iterable[Any]) -> int:
    """Sets running means and variances to the mean over the batches; everything else is in eval mode meanwhile.

    Args:
        network: changed in place; its modes and momenta are as before afterwards.
        batches: inputs, each of which counts by its samples; one with one value of a channel is left out.

    Returns:
        how many layers have such statistics.

    Raises:
        UserError: every minibatch has one value of a channel only.
    """
    layers = {name: each for name, each in network.named_modules() if _is_batch_norm(each)}
    modes = {module: module.training for module in network.modules()}
    momenta = [layer.momentum for layer in layers.values()]
    samples = dict.fromkeys(layers, 0)
    network.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()

    def weigh(name: str, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = first_input(layer, arguments, named)
        if x.numel() == x.shape[1]:
            raise _TooSmall
        samples[name] += len(x)
        layer.momentum = len(x) / samples[name]  # the mean of all samples

    used = left_out = 0
    try:
        with _in_float32(layers.values()), _looking(network, layers, weigh):
            for batch in batches if layers else ():
                try:
                    run_on(network, batch)
                    used += 1
                except _TooSmall:
                    left_out += 1
    finally:
        for layer, momentum in zip(layers.values(), momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    if left_out and not used:
        raise UserError(TOO_SMALL)
    return len(layers)


@contextmanager
def _in_float32(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, BatchNorms of half precision are of float32: a mean over many minibatches would stop moving."""
    narrow = [(layer, dtype) for layer in layers if (dtype := layer.running_mean.dtype) in HALVES]
    for layer, _ in narrow:
        layer.float()
    try:
        yield
    finally:
        for layer, dtype in narrow:
            layer.to(dtype)


class _TooSmall(Exception):
    """A minibatch has one value of a channel."""


@torch.no_grad()
def carry_batch_norm(network: nn.Module, before: nn.Module, batches: Iterable[Any]) -> int:
    """Carries running means and variances over to a changed network: each channel keeps its mean and its spread.

    A layer's statistics move by what the change makes of its input on the data: the mean by the difference, the
    variance by the ratio. So an unchanged network keeps those of its training, where data that are few, or of another
    kind, would give other ones.

    Args:
        network: changed in place; in eval mode.
        before: the same network before the change, in eval mode; left as it is.
        batches: inputs; some have more than one value for every channel. Each counts by its samples.

    Returns:
        how many layers have such statistics.

    Raises:
        UserError: every minibatch has one value of a channel only.
    """
    batches = list(batches)
    names = with_statistics(before, batches[0])[0] if batches else []
    with carrying(network, statistics_of(before, names, batches)):
        for batch in batches if names else ():
            run_on(network, batch)
    return len(names)


def _is_batch_norm(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.track_running_stats


@torch.no_grad()
def with_statistics(network: nn.Module, batch: Any) -> tuple[list[str], list[str]]:
    """The layers that normalise by running means and variances, and those that hold such and do something else.

    A class of its own, such as a frozen BatchNorm, is tried: what it gives stays where its input and its statistics are
    scaled and moved alike.

    Args:
        network: in eval mode.
        batch: inputs.
    """
    found = {name: True for name, each in network.named_modules() if _is_batch_norm(each)}
    own = [name for name, each in network.named_modules() if name not in found and _holds_statistics(each)]

    def look(name: str, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[name] = found.get(name, True) and _normalises(layer, arguments, named)

    with _looking(network, own, look):
        if own:
            run_on(network, batch)
    return [name for name, known in found.items() if known], [name for name, known in found.items() if not known]


def _holds_statistics(layer: nn.Module) -> bool:
    mean, variance = (layer._buffers.get(name) for name in ("running_mean", "running_var"))
    return mean is not None and variance is not None


def _normalises(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a call of a layer gives the same of 2 x + 1 with the statistics of that."""
    x = arguments[0] if arguments else None
    mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    if not isinstance(x, Tensor) or x.dim() < 2 or not mean.shape == variance.shape == x.shape[1:2]:
        return False
    given, other = copied(layer), copied(layer)
    eps = _eps(layer)
    other.get_buffer("running_mean").copy_(2 * mean + 1)
    other.get_buffer("running_var").copy_(4 * (variance + eps) - eps)
    # not called: hooks, ours among them, have been copied too
    wanted, found = given.forward(x.clone(), *arguments[1:], **named), other.forward(2 * x + 1, *arguments[1:], **named)
    return isinstance(wanted, Tensor) and bool((found - wanted).norm() <= SAME * wanted.norm() + 1e-12)


def _eps(layer: Any) -> float:
    """What is added to the variance; classes that do not say it have torch's, nearly always."""
    return float(getattr(layer, "eps", EPS))


class Before:
    """What a layer held before the change, and what each call of it read: weights and values as `_statistics` has."""

    def __init__(self, layer: Any) -> None:
        self.mean, self.variance = layer.running_mean.double(), layer.running_var.double()
        self.calls: list[tuple[Tensor, Tensor]] = []


@torch.no_grad()
def statistics_of(network: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> dict[str, Before]:
    """Of layers that have running statistics.

    Raises:
        UserError: a layer reads one value of a channel only in each call.
    """
    found = {name: Before(network.get_submodule(name)) for name in names}

    def look(name: str, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[name].calls.append(_statistics(first_input(layer, arguments, named)))

    with _looking(network, found, look):
        for batch in batches if found else ():
            run_on(network, batch)
    if any(each.calls and not any(bool(weights[1]) for weights, _ in each.calls) for each in found.values()):
        raise UserError(TOO_SMALL)
    return found


@contextmanager
def carrying(network: nn.Module, before: Mapping[str, Before]) -> Iterator[None]:
    """Inside, where the same data pass as before, each layer is set by all that has reached it so far."""
    carried = {name: _Carried(network.get_submodule(name), each) for name, each in before.items()}

    def look(name: str, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        carried[name].add(first_input(layer, arguments, named))

    with _looking(network, carried, look):
        yield


@contextmanager
def _looking(network: nn.Module, names: Iterable[str], look: Callable[..., None]) -> Iterator[None]:
    with ExitStack() as hooks:
        for name in names:
            hook = network.get_submodule(name).register_forward_pre_hook(partial(look, name), with_kwargs=True)
            hooks.callback(hook.remove)
        yield


class _Carried:
    """One layer: sums over its calls, before and now, weighted."""

    def __init__(self, layer: Any, before: Before) -> None:
        self.layer, self.before, self.calls = layer, before, iter(before.calls)
        self._weights = self._sums = torch.zeros(2, 2, 1)

    def add(self, x: Tensor) -> None:
        """What a call reads now."""
        if (before := next(self.calls, None)) is None:  # there was no such call
            return
        pair = before, _statistics(x)
        weights, values = (torch.stack(each) for each in zip(*pair, strict=True))
        self._weights, self._sums = self._weights.to(x.device) + weights, self._sums.to(x.device) + weights * values
        if bool(self._weights.all()):
            (mean_before, spread_before), (mean, spread) = self._sums / self._weights
            self._set(mean_before, spread_before, mean, spread)

    def _set(self, mean_before: Tensor, before: Tensor, mean: Tensor, now: Tensor) -> None:
        """What is normalised has the mean and the variance that it had; one that gives nothing keeps its variance."""
        then, eps = self.before.variance, _eps(self.layer)
        told = (now > NOTHING * before) & (before > NOTHING * then)
        ratio = torch.where(told, now / before, 1.0)
        self.layer.running_var.copy_(((then + eps) * ratio - eps).clamp_min(0))
        self.layer.running_mean.copy_(mean - (mean_before - self.before.mean) * ratio.sqrt())


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel: the samples that mean and variance count by, (2, 1), and the two, (2, channels).

    One value has no variance.
    """
    values = x.movedim(1, 0).flatten(1).double()
    several = values.shape[1] > 1
    weights = values.new_tensor([[len(x)], [len(x) * several]])
    return weights, torch.stack([values.mean(1), values.var(1) if several else torch.zeros_like(values[:, 0])])

"""BatchNorm statistics of a network that was changed after training.

`reestimate_batch_norm`: anew, from data that are as many and as varied as those of training. `carry_batch_norm`: by
what a change makes of them, on any data.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.calibration.replay import first_input
from compress.errors import UserError
from compress.graph.calls import run_on

NOTHING = 1e-6  # of a channel's variance, below which the data tell nothing of it


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, batches: Iterable[Any]) -> int:
    """Sets running means and variances to the mean over the batches; everything else is in eval mode meanwhile.

    Args:
        network: changed in place; its modes and momenta are as before afterwards.
        batches: inputs, each with more than one value for every channel.

    Returns:
        how many layers have such statistics.

    Raises:
        UserError: a minibatch has one value of a channel only.
    """
    layers = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not layers:
        return 0
    modes = {module: module.training for module in network.modules()}
    momenta = [layer.momentum for layer in layers]
    network.eval()
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
            layer.train()
        for batch in batches:
            run_on(network, batch)
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise UserError(f"the statistics of BatchNorm cannot be estimated again, give larger minibatches: {e}") from e
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(layers)


@torch.no_grad()
def carry_batch_norm(network: nn.Module, before: nn.Module, batches: Iterable[Any]) -> int:
    """Carries running means and variances over to a changed network: each channel keeps its mean and its spread.

    A layer's statistics move by what the change makes of its input on the data: the mean by the difference, the
    variance by the ratio. So an unchanged network keeps those of its training, where data that are few, or of another
    kind, would give other ones.

    Args:
        network: changed in place; in eval mode.
        before: the same network before the change, in eval mode; left as it is.
        batches: inputs, each with more than one value for every channel.

    Returns:
        how many layers have such statistics.

    Raises:
        UserError: a minibatch has one value of a channel only.
    """
    layers = [
        _Carried(each, before.get_submodule(name))
        for name, each in network.named_modules()
        if isinstance(each, _BatchNorm) and each.track_running_stats
    ]
    with ExitStack() as hooks:
        for each in layers:
            for module, look in ((each.was, each.look_before), (each.layer, each.look)):
                hooks.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        for batch in batches if layers else ():
            run_on(before, batch)
            run_on(network, batch)
    for each in layers:
        each.set_to_mean()
    return len(layers)


class _Carried:
    """One BatchNorm layer, now and before; while data pass it has the statistics that each minibatch asks for."""

    def __init__(self, layer: Any, was: Any) -> None:
        self.layer, self.was = layer, was
        self._waiting: list[Tensor] = []  # of calls of this minibatch, before
        self._sum: Tensor | None = None  # of means and variances before and now, (4, channels)
        self._calls = 0

    def look_before(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._waiting.append(_statistics(first_input(layer, arguments, named)))

    def look(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found = torch.cat([self._waiting.pop(0), _statistics(first_input(layer, arguments, named))])
        self._sum = found if self._sum is None else self._sum + found
        self._calls += 1
        self._set(found)

    def set_to_mean(self) -> None:
        if self._sum is not None:
            self._set(self._sum / self._calls)

    def _set(self, found: Tensor) -> None:
        """What is normalised has the mean and the variance that it had; one that gives nothing keeps its variance."""
        mean_before, before, mean, now = found
        mean_then, then = self.was.running_mean.double(), self.was.running_var.double()
        told = (now > NOTHING * before) & (before > NOTHING * then)
        ratio = torch.where(told, now / before, 1.0)
        self.layer.running_var.copy_(((then + self.layer.eps) * ratio - self.layer.eps).clamp_min(0))
        self.layer.running_mean.copy_(mean - (mean_before - mean_then) * ratio.sqrt())


def _statistics(x: Tensor) -> Tensor:
    """Mean and variance of each channel, (2, channels)."""
    values = x.movedim(1, 0).flatten(1).double()
    if values.shape[1] < 2:
        raise UserError(
            "the statistics of BatchNorm cannot be estimated again, give larger minibatches: "
            "Expected more than 1 value per channel"
        )
    return torch.stack([values.mean(1), values.var(1)])

"""BatchNorm statistics of a network that was changed after training.

`reestimate_batch_norm`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.errors import UserError
from compress.graph.calls import run_on


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

"""Minibatches that a pruner looks at before it can mask: counting, watching the forward pass, BatchNorm pairs.

`Gathering`, which a `PruningPolicy` owns.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.context import StepContext
from compress.pruning.base import Pruner
from compress.pruning.forward_watch import ForwardProbe
from compress.selectors import canonical_parameters, parameter_owners

logger = logging.getLogger("compress")


class Gathering:
    """Lets a pruner look at some minibatches.

    Args:
        name: the policy's, for messages.
        pruner: who looks.
        fold_batchnorm: whether the BatchNorm behind each layer must be found, which takes one forward pass.

    Attributes:
        left: minibatches to look at before new masks are due; 0 while none are awaited.
        norms: name of a weight -> name of the BatchNorm scale behind its layer; None before it was looked for.
        waiting: whether a minibatch is under way whose gradients are awaited.
    """

    def __init__(self, name: str, pruner: Pruner, fold_batchnorm: bool) -> None:
        self.name = name
        self.pruner = pruner
        self.fold_batchnorm = fold_batchnorm
        self.left = 0
        self.norms: dict[str, str] | None = None
        self.waiting = False
        self._probe: ForwardProbe | None = None

    def start(self) -> bool:
        """Begins to gather if new masks need it; returns whether they do."""
        self.left = max(self.pruner.batches, int(self.fold_batchnorm and self.norms is None))
        if self.left:
            self.pruner.begin_gathering()
        return self.left > 0

    def watch(self, ctx: StepContext) -> None:
        """Before a forward pass: attaches the probe if this minibatch is looked at."""
        self._close()
        self.waiting = self.left > 0 or self.pruner.observes_always
        if self.left and (self.pruner.listens or (self.fold_batchnorm and self.norms is None)):
            watched = {name: ctx.masks[name].parameter for name in self.pruner.weights}
            self._probe = ForwardProbe(ctx.model, watched, self.pruner)

    def observe(self, ctx: StepContext) -> bool:
        """After a backward pass: lets the pruner look; returns whether new masks are due now."""
        if not self.waiting:
            return False
        self.waiting = False
        if self._probe is not None and self.fold_batchnorm and self.norms is None:
            self.norms = _scales_by_name(ctx.model, self._probe.norms)
        self._close()
        self.pruner.observe({name: ctx.masks[name].parameter for name in self.pruner.weights}, ctx)
        if not self.left:
            return False
        self.left -= 1
        if self.left and ctx.is_last_step:
            logger.warning(
                "%r: the epoch ended %d minibatches before the %d that it was to gather; it masks with what it saw",
                self.name,
                self.left,
                self.pruner.batches,
            )
            self.left = 0
        return self.left == 0

    def folded(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """The weights, each filter multiplied by gamma / sqrt(variance + eps) of the BatchNorm behind it."""
        norms = self.norms or {}
        owners = parameter_owners(ctx.model) if norms else {}
        return {
            name: weight * _norm_scale(owners[norms[name]], weight, owners[name]) if name in norms else weight
            for name, weight in weights.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """How many minibatches are awaited, and what is known of the network."""
        return {"left": self.left, "norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._close()
        self.left, self.norms, self.waiting = state["left"], state["norms"], False

    def _close(self) -> None:
        if self._probe is not None:
            self._probe.detach()
            self._probe = None


def _scales_by_name(model: nn.Module, found: Mapping[str, int]) -> dict[str, str]:
    names = {id(parameter): name for name, parameter in canonical_parameters(model).items()}
    return {weight: names[scale] for weight, scale in found.items() if scale in names}


def _norm_scale(norm: nn.Module, weight: Tensor, layer: nn.Module) -> Tensor:
    """gamma / sqrt(variance + eps) in a shape that multiplies the layer's filters."""
    assert isinstance(norm, nn.modules.batchnorm._NormBase)
    gamma = norm.weight.detach()
    if norm.running_var is not None:
        gamma = gamma / torch.sqrt(norm.running_var + norm.eps)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return gamma.reshape([-1 if dim == int(transposed) else 1 for dim in range(weight.dim())])

"""What a hook is told: the moment, and what it may act on. Time is passed in; nobody counts.

`StepContext`, and the loss terms that `before_backward_pass` hands on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.masks import MaskTable
from compress.thinning.current import CurrentGraph


@dataclass(frozen=True)
class NetworkCut:
    """A policy has cut the network.

    Attributes:
        recipe: what was removed, as plain data.
    """

    recipe: dict[str, Any]


@dataclass(frozen=True)
class LayersExchanged:
    """A policy has exchanged layers by quantized ones.

    Attributes:
        structure: what was exchanged, as plain data.
    """

    structure: dict[str, Any]


Change = NetworkCut | LayersExchanged


def _unheard(change: Change) -> None:
    """Where nobody keeps account of the network's structure."""


@dataclass(frozen=True)
class StepContext:
    """One moment of the training loop.

    Attributes:
        epoch: counted from 0.
        model: the network being trained.
        masks: the scheduler's masks.
        generator: the scheduler's own random generator (CPU); saved and resumed, equal on every rank.
        optimizer: the optimizer of the loop, None where a loop did not give one.
        step: minibatch of the epoch, counted from 0 (one minibatch = one optimizer update); -1 outside of one.
        steps_per_epoch: how many there are; 0 outside of a minibatch.
        metrics: validation metrics by name, at an epoch's end.
        recipes: what thinning has removed so far, one recipe (plain data) each time.
        graph: the network's coupled channels, traced when asked for; None where a scheduler has none.
        structures: what quantization has exchanged so far, as plain data.
        measure_loss: the loss of the minibatch under way with the weights as they are now; None where a loop offers it
            not. It leaves the network as it was.
        tell: to be called at once by a policy that has changed the network's structure, with what it did: the
            scheduler saves it, and cuts what other policies remember of the parameters.
    """

    epoch: int
    model: nn.Module
    masks: MaskTable
    generator: torch.Generator
    optimizer: torch.optim.Optimizer | None = None
    step: int = -1
    steps_per_epoch: int = 0
    metrics: dict[str, Any] | None = None
    recipes: Sequence[dict[str, Any]] = ()
    graph: CurrentGraph | None = None
    structures: Sequence[dict[str, Any]] = ()
    measure_loss: Callable[[], float] | None = None
    tell: Callable[[Change], None] = _unheard

    @property
    def is_last_step(self) -> bool:
        """Whether this is the last minibatch of its epoch."""
        return self.step == self.steps_per_epoch - 1


class LossComponent(NamedTuple):
    """A named part of the loss, for logging.

    Attributes:
        name: such as `L1_regularizer_loss`.
        value: scalar tensor, with its gradient.
    """

    name: str
    value: Tensor


class PolicyLoss(NamedTuple):
    """What `before_backward_pass` gives when it is asked for components.

    Attributes:
        overall_loss: scalar tensor to backpropagate.
        loss_components: the terms that policies added, in order.
    """

    overall_loss: Tensor
    loss_components: list[LossComponent]

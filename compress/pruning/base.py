"""WHAT to prune: the base of every pruner.

`Pruner`, and the argument types that pruners share. To add a pruner: one file in this folder, one import line in
`compress/config/families.py`, one test.

Most pruners look at weights alone, and mask when an epoch begins. Those that need gradients or activations set
`batches`: the policy then lets them look at so many minibatches, and asks for masks before the optimizer's step
that follows:

    begin_gathering()                       when a firing epoch begins (or a minibatch that is due)
    on_layer(), on_activation()             in the forward pass of each of the `batches` minibatches
    observe()                               after each one's backward pass, with gradients there
    masks()                                 after the last one's observe()
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.arguments.checked import CheckedArguments
from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.levels import LevelArgument, Sparsity
from compress.parameters import widened
from compress.pruning.forward_watch import ForwardListener
from compress.thinning.expected import Demand

__all__ = ["LevelArgument", "Pruner", "Sparsity"]


class Pruner(CheckedArguments, ForwardListener, ABC):
    """Computes masks of the weights that it was given.

    The constructor's signature is the schedule's schema: selectors arrive here as full canonical names.

    Attributes:
        weights: canonical names of the weights it prunes.
        batches: minibatches to look at before masks can be made; 0 = masks are made when an epoch begins.
        observes_always: whether `observe` wants every minibatch of a firing epoch, not only the first `batches`.
        listens: whether the forward pass is followed (`on_layer`, `on_activation`).
    """

    weights: list[str]
    batches: int = 0
    observes_always: ClassVar[bool] = False
    listens: ClassVar[bool] = False

    @abstractmethod
    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """New masks for this moment.

        Args:
            weights: name -> weight as it is now, for each of `self.weights`.
            ctx: the moment.
            window: the policy's epochs.

        Returns:
            name -> bool mask of the weight's shape, True = kept. A name left out keeps the mask it has; names of
            other parameters may be in it, such as the bias of a filter that goes.
        """

    def begin_gathering(self) -> None:
        """Forgets what earlier minibatches showed."""

    def observe(self, parameters: Mapping[str, nn.Parameter], ctx: StepContext) -> None:
        """Takes note of one minibatch: gradients are there, the optimizer has not stepped yet."""

    def rewrite(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], ctx: StepContext
    ) -> dict[str, Tensor]:
        """New values of parameters, by name, to go with new masks; default none."""
        return {}

    def forward_scale(self, name: str, mask: Tensor) -> float:
        """Factor of the surviving elements of one of its weights in forward passes, with `use_double_copies` only."""
        return 1.0

    def goes_alone(self, name: str) -> bool:
        """Whether what it masks of a weight goes alone: a thinner leaves in the network what such a mask clears."""
        return False

    def stands_beside(self, name: str) -> str | None:
        """Of what its mask of a weight is, where that is joined with the masks of other pruners of the same weight.

        None: the last pruner's mask counts, as in Distiller. Two with one answer replace each other too.
        """
        return None

    def override_levels(self, levels: Any) -> None:
        """Takes the policy argument `levels`, which replaces the constructor's at each epoch begin.

        Raises:
            TypeError: this pruner has no levels.
        """
        raise TypeError(f"{type(self).__name__} takes no 'levels' in its policy")

    def faults(self, model: nn.Module) -> list[str]:
        """What is wrong with these settings for this model, a sentence each; asked once, before training."""
        return []

    def check_window(self, window: EpochWindow) -> None:
        """Called with the policy's epochs before training.

        Raises:
            ValueError: it cannot work in such a window.
        """

    def note_sizes(self, model: nn.Module) -> None:
        """Called once before training, with the network as it is then; default nothing."""

    def realised(self, name: str, level: float) -> float:
        """The fraction of zeros that a level comes to in one weight, of which only whole elements or groups can go."""
        return level

    def demand(self, levels: Mapping[str, float]) -> Demand | None:
        """How it would ask for units of the network's graph at these levels of its weights; None where it does not."""
        return None

    def leaves(self, name: str) -> bool:
        """Whether what it masks of a weight are whole filters or channels, which a thinner removes; default no."""
        return False

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The fraction of zeros that it will ask for, by weight; {} where that depends on data."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that a resumed run needs; default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""


class GradientSums:
    """Sums over minibatches of what a pruner reads off each weight's gradient, by name.

    Attributes:
        sums: name -> sum.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Adds to the sum of that name."""
        value = widened(value.detach())  # in half precision a long sum stops growing
        self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def add_gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Adds each parameter's gradient to the sum of its name."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                self.add(name, parameter.grad)

    def of(self, name: str, device: torch.device) -> Tensor:
        """The sum of that name, on a device.

        Raises:
            UserError: nothing was added, so that nothing can be ranked.
        """
        if name not in self.sums:
            raise UserError(
                f"pruner of {name!r}: this weight had no gradient (it is frozen, or the forward pass does not use it), "
                "so it cannot be ranked by one; leave it out of weights"
            )
        return self.sums[name].to(device)

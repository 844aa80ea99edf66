"""WHAT to add to the loss: the base of every regularizer.

`Regularizer`, and the thresholds that some of them apply after the optimizer's step. To add one: a file in this
folder, an import in `compress/config/families.py`, a test.
"""

from abc import ABC
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from compress.arguments.checked import CheckedArguments
from compress.context import StepContext

Strength = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Regularizer(CheckedArguments, ABC):
    """Adds a term to the loss of the weights that it was given; may zero weights below its threshold.

    A subclass overrides at least one hook. The constructor's signature is the schedule's schema.

    Attributes:
        weights: canonical names of the weights it acts on.
    """

    weights: list[str]

    def loss(self, weights: Mapping[str, Tensor], ctx: StepContext) -> Tensor | None:
        """The term to add, a scalar with its gradient; None for a regularizer that works otherwise.

        Args:
            weights: name -> weight as it is now, for each of `self.weights`.
            ctx: the moment.
        """
        return None

    def threshold_masks(self, weights: Mapping[str, Tensor], ctx: StepContext) -> dict[str, Tensor]:
        """Bool masks, False = at or below the threshold, to be zeroed now; {} without `threshold_criteria`."""
        return {}

    def goes_alone(self, name: str) -> bool:
        """Whether what a threshold zeroes of a weight goes alone: a thinner leaves it in the network."""
        return False

    def before_forward(self, weights: Mapping[str, Tensor], ctx: StepContext) -> None:
        """May change weights for one forward pass; `after_backward` undoes it."""

    def after_backward(self, weights: Mapping[str, Tensor], ctx: StepContext) -> None:
        """Undoes what `before_forward` did; gradients are there, the optimizer has not stepped yet."""

    def faults(self, model: nn.Module) -> list[str]:
        """What is wrong with these settings for this model, a sentence each; asked once, before training."""
        return []

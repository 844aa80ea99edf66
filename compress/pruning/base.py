"""WHAT to prune: the base of every pruner.

Here: `Pruner`, and the argument types that pruners share. Not here: when (policies/pruning.py), masks' bookkeeping
(masks.py). To add a pruner: one file in this folder, one import line in `compress/config/families.py`, one test.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from compress.context import StepContext
from compress.window import EpochWindow

Sparsity = Annotated[float, Field(ge=0.0, le=1.0)]


class Pruner(ABC):
    """Computes masks of the weights that it was given.

    The constructor's signature is the schedule's schema: selectors arrive here as full canonical names.

    Attributes:
        weights: canonical names of the weights it prunes.
    """

    weights: list[str]

    @abstractmethod
    def masks(self, weights: Mapping[str, Tensor], ctx: StepContext, window: EpochWindow) -> dict[str, Tensor]:
        """New masks for this moment.

        Args:
            weights: name -> weight as it is now, for each of `self.weights`.
            ctx: the moment.
            window: the policy's epochs.

        Returns:
            name -> bool mask of the weight's shape, True = kept. A name left out keeps the mask it has.
        """

    def override_levels(self, levels: Any) -> None:
        """Takes the policy argument `levels`, which replaces the constructor's at each epoch begin.

        Raises:
            TypeError: this pruner has no levels.
        """
        raise TypeError(f"{type(self).__name__} takes no 'levels' in its policy")

    def plan(self, epoch: int, window: EpochWindow) -> dict[str, float]:
        """The fraction of zeros that it will ask for, by weight; {} where only data can tell."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that a resumed run needs; default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""

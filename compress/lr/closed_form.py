"""Learning-rate schedules that are a formula of the epoch: `PolynomialLR`, `MultiStepMultiGammaLR`.

Rates computed from the first rate and the epoch, so that they depend on nothing in between.
"""

from abc import abstractmethod
from bisect import bisect_right
from math import prod
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from compress.arguments.checked import CheckedArguments
from compress.registry import LR_SCHEDULERS


class ClosedFormLR(CheckedArguments, LRScheduler):
    """rate = first rate * factor(epoch)."""

    @abstractmethod
    def factor(self, epoch: int) -> float:
        """What the first rate is multiplied with."""

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        return self.get_lr()


@LR_SCHEDULERS.register
class PolynomialLR(ClosedFormLR):
    """rate = base * (1 - e / T)^power until epoch T, then 0.

    Source: torch.optim.lr_scheduler.PolynomialLR, which calls T `total_iters`, and Distiller's class of this name,
    which calls it `T_max`: either name is understood. Computed from the epoch, so that no rounding adds up.

    When to use: segmentation and other dense prediction; power 1 is a straight line to zero.

    Sample:
        lr_schedulers:
          poly:
            class: PolynomialLR
            T_max: 30
            power: 0.9

    Args:
        total_iters: epochs until the rate is 0, >= 1; 5 if neither name is given, as in torch.
        power: exponent, > 0.
        T_max: the same as `total_iters`.

    Raises:
        ValueError: both names are given.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: Annotated[int, Field(ge=1)] | None = None,
        power: Annotated[float, Field(gt=0.0)] = 1.0,
        T_max: Annotated[int, Field(ge=1)] | None = None,
        last_epoch: int = -1,
    ) -> None:
        if total_iters is not None and T_max is not None:
            raise ValueError("total_iters and T_max are two names of the same; give one")
        self.total_iters = total_iters or T_max or 5
        self.power = power
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """(1 - e / T)^power."""
        return (1.0 - min(epoch, self.total_iters) / self.total_iters) ** self.power


@LR_SCHEDULERS.register
class MultiStepMultiGammaLR(ClosedFormLR):
    """Multiplies the rate at each milestone by a factor of its own.

    Source: Distiller's class of this name; torch's MultiStepLR has one factor for all milestones.

    When to use: schedules whose steps differ, such as up for pruning and down for fine-tuning.

    Sample:
        lr_schedulers:
          steps:
            class: MultiStepMultiGammaLR
            milestones: [10, 20]
            gammas: [0.5, 0.1]

    Args:
        milestones: epochs, ascending.
        gammas: factor from each milestone on, > 0; as many as milestones.

    Raises:
        ValueError: the numbers differ, or the milestones do not ascend.
    """

    jumps = True

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[Annotated[int, Field(ge=0)]],
        gammas: list[Annotated[float, Field(gt=0.0)]],
        last_epoch: int = -1,
    ) -> None:
        if len(milestones) != len(gammas):
            raise ValueError(
                f"{len(milestones)} milestones and {len(gammas)} gammas; each milestone needs its own gamma"
            )
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones {milestones} must ascend")
        self.milestones = list(milestones)
        self.gammas = list(gammas)
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """The product of the gammas whose milestone has come."""
        return prod(self.gammas[: bisect_right(self.milestones, epoch)])

"""The one-cycle schedule: `OneCycleLR`, torch's class, whose rate stays at its end when the cycle is over."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from compress.arguments.checked import CheckedArguments
from compress.registry import LR_SCHEDULERS


@LR_SCHEDULERS.register
class OneCycleLR(CheckedArguments, lr_scheduler.OneCycleLR):
    """One rise of the rate to `max_lr` and one fall to almost nothing, the momentum falling and rising against it.

    Source: torch.optim.lr_scheduler.OneCycleLR. There the cycle of n epochs ends in epoch n - 1, and a step behind it
    gives a rate that rises again (or, with `anneal_strategy: linear`, one below zero); here the rate stays.
    Paper: Smith and Topin 2017, Super-Convergence, arXiv 1708.07120.

    When to use: training from the start in few epochs; pruned networks, with a lower `max_lr`.

    Sample:
        lr_schedulers:
          one_cycle:
            class: OneCycleLR
            max_lr: 0.003
            total_steps: 30

    Args:
        max_lr: the highest rate, or a list with one for each group.
        total_steps: epochs of the cycle, of which the last has the lowest rate; with `interval: minibatch` one more
            than the run has, so that the rate falls until the last minibatch. Or give the next two, of which it is the
            product.
        epochs: see `total_steps`.
        steps_per_epoch: 1, since a schedule counts epochs, not minibatches.
        pct_start: fraction of the epochs in which the rate rises.
        anneal_strategy: half a cosine, or a straight line.
        cycle_momentum: whether the momentum moves as well.
        base_momentum: the lowest momentum, at the highest rate, or a list with one for each group.
        max_momentum: the highest momentum, at both ends, or a list with one for each group.
        div_factor: max_lr / the first rate, > 0.
        final_div_factor: the first rate / the last one, > 0.
        three_phase: fall back to the first rate as fast as it rose, and only then to the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: Annotated[int, Field(ge=1)] | None = None,
        epochs: Annotated[int, Field(ge=1)] | None = None,
        steps_per_epoch: Annotated[int, Field(ge=1)] | None = None,
        pct_start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: Annotated[float, Field(gt=0.0)] = 25.0,
        final_div_factor: Annotated[float, Field(gt=0.0)] = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        super().__init__(
            optimizer, max_lr, total_steps, epochs, steps_per_epoch, pct_start, anneal_strategy, cycle_momentum,
            base_momentum, max_momentum, div_factor, final_div_factor, three_phase, last_epoch,
        )  # fmt: skip

    @staticmethod
    def length_of(arguments: Mapping[str, Any]) -> int | None:
        """Epochs of the cycle that has these arguments; None where they do not say."""
        if (total := arguments.get("total_steps")) is not None:
            return int(total)
        pair = arguments.get("epochs"), arguments.get("steps_per_epoch")
        return None if None in pair else int(pair[0]) * int(pair[1])  # type: ignore[arg-type]

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present epoch, of which the one behind the cycle has those of the cycle's last.

        Raises:
            ValueError: the cycle is over.
        """
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"the cycle takes {self.total_steps} epochs, and its policy goes on behind them; give total_steps (or "
                "epochs x steps_per_epoch) the number of epochs of the run (one more with interval minibatch), or let "
                "the policy end"
            )
        if self.last_epoch == self.total_steps:
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()

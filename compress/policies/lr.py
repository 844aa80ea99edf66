"""WHEN learning rates change: the policy of every learning-rate schedule.

Here: `LRPolicy`. Not here: the schedules themselves (torch.optim.lr_scheduler and `compress/lr/`).
"""

import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from compress.context import StepContext
from compress.errors import UserError
from compress.policies.base import Policy
from compress.window import EpochWindow


class LRPolicy(Policy):
    """Steps a learning-rate scheduler at each firing epoch's end, on the schedule's own clock.

    Epochs are absolute, as in Distiller: a policy that starts at epoch 5 leaves the rate alone through epoch 5,
    then sets what its scheduler gives for epoch 6 of a run that it had governed from the start. The clock is
    reached by plain steps, so that every class works, also those that cannot be set to an epoch.

    Args:
        name: the instance's name.
        window: the firing epochs.
        optimizer: whose learning rates are set.
        scheduler_class: a class of torch.optim.lr_scheduler, or one of the same interface.
        arguments: of its constructor, without the optimizer.
    """

    def __init__(
        self,
        name: str,
        window: EpochWindow,
        optimizer: Optimizer,
        scheduler_class: type[LRScheduler],
        arguments: dict[str, Any],
    ) -> None:
        super().__init__(name, window)
        self.optimizer = optimizer
        self.scheduler_class = scheduler_class
        self.arguments = arguments
        self.scheduler: LRScheduler | None = None

    def on(self, optimizer: Optimizer) -> "LRPolicy":
        """The same policy, not yet started, on another optimizer."""
        return LRPolicy(self.name, self.window, optimizer, self.scheduler_class, self.arguments)

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """The rate of epoch 0, which a warm-up may lower."""
        self.begin(ctx.epoch)

    def on_epoch_end(self, ctx: StepContext) -> None:
        """The rate of the next epoch."""
        self.end(ctx.epoch, ctx.metrics)

    def begin(self, epoch: int) -> None:
        """Starts the clock if this is epoch 0."""
        if epoch == 0 and self.scheduler is None:
            self.scheduler = self._start()

    def end(self, epoch: int, metrics: dict[str, Any] | None) -> None:
        """Moves the clock to `epoch` + 1.

        Raises:
            UserError: the class needs a metric that the training loop does not report.
        """
        if self.scheduler is None:
            self.scheduler = self._start()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metrics is not None:
                self.scheduler.step(self._metric(metrics, self.scheduler.mode))
            return
        with _torch_order_warning_off():
            while self.scheduler.last_epoch < epoch + 1:
                self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's own state; {} before it started."""
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the clock; the optimizer's present rates and momenta stay as they are."""
        if not state:
            self.scheduler = None
            return
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.scheduler = self._start()
        self.scheduler.load_state_dict(state)
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(setting)

    def _start(self) -> LRScheduler:
        for group in self.optimizer.param_groups:  # an earlier policy may have moved the rate: epochs are absolute
            group["lr"] = group.get("initial_lr", group["lr"])
        return self.scheduler_class(self.optimizer, **self.arguments)

    def _metric(self, metrics: dict[str, Any], mode: str) -> float:
        if mode not in metrics:
            raise UserError(
                f"lr_schedulers.{self.name}: ReduceLROnPlateau(mode={mode}) needs metrics[{mode!r}] in on_epoch_end; "
                f"the training loop gave {sorted(metrics)}"
            )
        return float(metrics[mode])


def _torch_order_warning_off() -> warnings.catch_warnings:
    """torch warns when a scheduler steps before the optimizer did, which fast-forwarding does on purpose."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)

"""What the adapters share: the events of a foreign loop -> the scheduler's hooks.

`LoopDriver`.

Callbacks cannot replace the loss, so the terms that policies add to it are backpropagated on their own:
d(loss + terms) = d(loss) + d(terms), and backward() adds to the gradients that are there. One minibatch of the hooks
is one update by the optimizer, also when gradients are accumulated over several batches.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compress.context import PolicyLoss
from compress.errors import UserError
from compress.scheduler import CompressionScheduler

Schedule = CompressionScheduler | Callable[[nn.Module, Optimizer], CompressionScheduler]


class LoopDriver:
    """Calls the scheduler's hooks in the only order there is.

        start -> begin_epoch -> (begin_update -> add_terms -> before_step -> end_update)* -> end_epoch

    Args:
        schedule: the scheduler, or a function (model, optimizer) -> scheduler, which is called when training starts.

    Attributes:
        epoch: the epoch under way, counted from 0.
        step: the update of the epoch, counted from 0; None outside of one.
        steps: updates in an epoch.
        rates: learning rates that the schedule set, where a loop has to be given them again; None elsewhere.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._saved: dict[str, Any] | None = None
        self._optimizer: Optimizer | None = None
        self._hidden: list[str] = []  # names of parameters that `show_masked` has masked
        self.epoch = 0
        self.step: int | None = None
        self.steps = 0
        self.rates: list[float] | None = None
        self._under_way = False
        self._resumed = False

    @property
    def scheduler(self) -> CompressionScheduler:
        """The scheduler.

        Raises:
            UserError: it is made when training starts, and training has not started.
        """
        if not isinstance(self._schedule, CompressionScheduler):
            raise UserError("the scheduler is made when training starts, which it has not")
        return self._schedule

    def start(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Makes the scheduler if it is not there; restores a state that was loaded before."""
        self._optimizer = optimizer
        if not isinstance(self._schedule, CompressionScheduler):
            self._schedule = self._schedule(model, optimizer)
        if self._saved is not None:
            self._restore(self._saved)
            self._saved = None

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """An epoch of `steps` updates begins; of one that a resumed run continues with, the hook was called before.

        Of a run resumed behind the last update of an epoch, loops go to the next one at once: that epoch ends here.
        """
        self.end_before(epoch)
        goes_on = self._resumed and epoch == self.epoch
        self.epoch, self.steps, self._under_way, self._resumed = epoch, steps, True, False
        if not goes_on:
            self.show_updated()
            self.scheduler.on_epoch_begin(epoch, self._optimizer)

    def begin_update(self, step: int) -> None:
        """Before the first forward pass of an update."""
        self.show_updated()
        self.step = step
        self.scheduler.on_minibatch_begin(self.epoch, step, self.steps, self._optimizer)

    def add_terms(self) -> dict[str, float]:
        """Adds the gradients of the policies' terms to those that are there; at any moment before the step.

        Returns:
            the terms by name.

        Raises:
            UserError: a policy scales or replaces the loss, or its term needs the forward pass.
        """
        loss = torch.ones((), requires_grad=True)  # stands for the loss, which the loop backpropagates itself
        answer = self.scheduler.before_backward_pass(
            self.epoch, self._step(), self.steps, loss, self._optimizer, return_loss_components=True
        )
        assert isinstance(answer, PolicyLoss)
        if answer.overall_loss is not loss:
            _backpropagate(answer, loss)
        return {component.name: float(component.value.detach()) for component in answer.loss_components}

    def before_step(self) -> None:
        """All gradients of the update are there."""
        assert self._optimizer is not None
        self.scheduler.before_parameter_optimization(self.epoch, self._step(), self.steps, self._optimizer)

    def end_update(self) -> None:
        """After the optimizer's step."""
        self.scheduler.on_minibatch_end(self.epoch, self._step(), self.steps, self._optimizer)
        self.step = None

    def end_epoch(self, metrics: dict[str, Any] | None) -> None:
        """After validation, before saving."""
        self.show_masked()
        self.scheduler.on_epoch_end(self.epoch, self._optimizer, metrics)
        self._under_way = False

    def is_in(self, epoch: int) -> bool:
        """Whether this epoch has begun and not ended."""
        return self._under_way and not self._resumed and epoch == self.epoch

    def end_before(self, epoch: int) -> None:
        """Ends an earlier epoch that is still under way, without metrics, which are not to be had any more."""
        if self._under_way and epoch > self.epoch:
            self.end_epoch(None)
            self._resumed = False

    def show_masked(self) -> None:
        """For validation and saving inside an epoch: weights whose masks may recover are masked too."""
        self._hidden += self.scheduler.masks.show_masked()

    def show_updated(self) -> None:
        """Undoes `show_masked`: training continues with the weights that the optimizer updates."""
        self.scheduler.masks.show_updated(self._hidden)
        self._hidden.clear()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state and the place in the epoch; a state that was loaded and not yet used, as it is."""
        if not isinstance(self._schedule, CompressionScheduler):
            return self._saved or {}
        return {
            "scheduler": self._schedule.state_dict(),
            "epoch": self.epoch,
            "steps": self.steps,
            "under_way": self._under_way,
            "rates": self.rates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, when training starts."""
        self._saved = state or None

    def _restore(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.steps, self.rates = state["epoch"], state["steps"], state["rates"]
        self._under_way = self._resumed = state["under_way"]
        self._hidden = [masker.name for masker in self.scheduler.masks.masked() if masker.unmasked_copy is not None]

    def _step(self) -> int:
        assert self.step is not None, "outside of an update"
        return self.step


def _backpropagate(answer: PolicyLoss, loss: torch.Tensor) -> None:
    """Backpropagates all but the loss itself, whose own factor must be 1."""
    try:
        answer.overall_loss.backward()
    except RuntimeError as e:
        if "second time" not in str(e):
            raise
        raise UserError(f"{_terms(answer)} needs the forward pass, which is over here; {_ADVICE}") from e
    factor = 0.0 if loss.grad is None else float(loss.grad)
    if factor != 1.0:
        raise UserError(
            f"{_terms(answer)} belongs to a policy that multiplies the loss itself (here by {factor:g}), which a "
            f"callback cannot do; {_ADVICE}"
        )


def _terms(answer: PolicyLoss) -> str:
    names = [component.name for component in answer.loss_components]
    return f"the loss term {', '.join(map(repr, names))}" if names else "a loss"


_ADVICE = "drive the scheduler from a training loop of your own, which backpropagates what before_backward_pass returns"

"""Losses that are not finite: found, named, and `--on-nan` done about them.

`NanGuard` looks at each loss, `NotFinite` names the place and the module.

On a CPU every loss is looked at before it goes backward. On CUDA that would make the host wait at every step, so
there the first bad step is remembered on the device, and looked up every `EVERY` steps and before anything is saved;
with `--on-nan=skip` each loss is waited for.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.distributed import max_over_ranks, several_processes
from compress.errors import UserError
from engine.distributed.process_group import of_every_process
from engine.epoch.nan_search import Finding, first_not_finite, not_finite_weights
from engine.signals import Interrupts
from engine.state import TrainState

logger = logging.getLogger("run")
EVERY = 50  # steps, on CUDA
MOST_RETURNS = 5  # to a checkpoint, in one process
Place = tuple[int, int]  # epoch, step


class NotFinite(UserError):
    """A loss or a weight is NaN or infinite.

    Attributes:
        place: epoch and step whose minibatch is to blame, both from 0.
    """

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class NanGuard:
    """Watches the losses of a run.

    Args:
        state: the networks and optimizers that a step changes, and that may have to be put back.
        mode: of `--on-nan`: `stop`, `skip` or `rollback`.
        device: of the losses.
        forward: the forward pass of a minibatch once more, not compiled and noted nowhere, to search in.
        signals: sent to the other processes in the same message.
        left_out: places that are not trained on, since their minibatches led to a loss that was not finite.
    """

    def __init__(
        self,
        state: TrainState,
        mode: str,
        device: torch.device,
        forward: Callable[[Any], object],
        signals: Interrupts | None = None,
        left_out: set[Place] | None = None,
    ) -> None:
        self.state = state
        self.mode = mode
        self.left_out = set() if left_out is None else left_out
        self._forward = forward
        self._signals = signals if signals is not None else Interrupts()
        self._waits = device.type != "cuda" or mode == "skip"
        self._first_bad: Tensor | None = None
        self._kept: dict[str, Any] | None = None

    def before_step(self, place: Place) -> None:
        """Keeps what a forward pass changes, where the step may have to be undone, or a companion be looked into."""
        self._kept = None
        if self.mode == "skip" or place in self.left_out or (self._waits and self.state.companions):
            self._kept = _copies(self.state)

    def passes(self, place: Place, loss: Tensor, group: Sequence[Any]) -> bool:
        """Whether a loss may go backward; False undoes what the forward pass changed.

        Args:
            place: epoch and step.
            loss: scalar.
            group: the minibatches that it came from.

        Raises:
            NotFinite: it is not finite, and the step is not to be left out.
        """
        if place in self.left_out:
            logger.warning("epoch %d, step %d: left out, its minibatch led to a loss that was not finite", *place)
            return self._undo()
        if not self._waits:
            self._remember(place, loss)
            return True
        good = bool(torch.isfinite(loss.detach()).all())
        if self._first_of_all(None if good else place[1]) is None:
            return True
        self._put_back()
        where = _of_who_is_to_blame(
            good, first_not_finite(self.state.networks, group, self._forward), float(loss.detach())
        )
        fault = _fault(place, where)
        if self.mode != "skip" or where.weights:  # there is no way back from such weights
            raise fault
        logger.warning("%s; the step is left out (--on-nan=skip)", fault)
        return self._undo()

    def before_saving(self, place: Place) -> None:
        """Sees to it that no checkpoint holds weights that are not finite.

        Raises:
            NotFinite: there are such weights, or a loss was not finite on the way.
        """
        self._ask(place)
        broken = not_finite_weights(self.state.networks)
        if broken:
            raise NotFinite(
                place, f"epoch {place[0]}, step {place[1]}: after this update {', '.join(broken[:3])} "
                f"{'is' if len(broken) == 1 else 'are'} not finite: the gradients were not. {_ADVICE}"
            )  # fmt: skip

    def can_go_back(self, fault: NotFinite) -> bool:
        """Takes note of a minibatch to be left out; whether the run may go back to its last checkpoint."""
        if self.mode != "rollback" or len(self.left_out) >= MOST_RETURNS or fault.place in self.left_out:
            return False
        self.left_out.add(fault.place)
        return True

    def _remember(self, place: Place, loss: Tensor) -> None:
        step = place[1]
        if self._first_bad is None or step == 0:
            self._first_bad = torch.full((), -1, device=loss.device)
        bad = ~torch.isfinite(loss.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        if step % EVERY == EVERY - 1:
            self._ask(place)

    def _ask(self, place: Place) -> None:
        if self._first_bad is None:
            return
        own, self._first_bad = int(self._first_bad), None
        step = self._first_of_all(own if own >= 0 else None)
        if step is not None:
            raise NotFinite((place[0], step), f"epoch {place[0]}, step {step}: the loss was not finite. {_ADVICE}")

    def _first_of_all(self, step: int | None) -> int | None:
        """The first bad step of any process, of this one's; None where there is none.

        A signal that came to any process goes along in the same message: each message costs its latency.
        """
        if not several_processes():
            return step
        own = torch.tensor([-math.inf if step is None else -step, self._signals.asked or 0], dtype=torch.float64)
        earliest, came = max_over_ranks(own).tolist()
        self._signals.hear(int(came))
        return None if earliest == -math.inf else int(-earliest)

    def _undo(self) -> bool:
        self.state.optimizer.zero_grad(set_to_none=True)  # what minibatches before it in an update have given
        self._put_back()
        return False

    def _put_back(self) -> None:
        if self._kept is not None:
            _put_back(self.state, self._kept)


_ADVICE = (
    "The last checkpoint is from before. A lower --lr helps if the loss grew before; --on-nan=skip leaves such a "
    "minibatch out, --on-nan=rollback goes back to the last checkpoint and leaves it out"
)


def _of_who_is_to_blame(good: bool, own: Finding, loss: float) -> Finding:
    """What a process whose loss is not finite has found, with its loss, alike in all processes.

    What is wrong in one may have reached the others, such as by a discriminator: one that names a place is preferred.
    """
    found = of_every_process((good, not own.placed, own.words, own.weights, loss))
    number = min(range(len(found)), key=lambda i: found[i][:2])
    _, _, words, weights, value = found[number]
    who = f" in process {number} of {len(found)}" if len(found) > 1 else ""
    return Finding(f"the loss is {value:g}{who}; {words}", weights)


def _fault(place: Place, where: Finding) -> NotFinite:
    blamed = (place[0], max(place[1] - 1, 0)) if where.weights else place  # the update before made them so
    return NotFinite(blamed, f"epoch {place[0]}, step {place[1]}: {where.words}. {_ADVICE}")


def _copies(state: TrainState) -> dict[str, Any]:
    """Copies of what a forward pass may change: the network's buffers, and companions, which `compute_loss` updates."""
    companions = [(each.network.state_dict(), each.optimizer.state_dict()) for each in state.companions.values()]
    return {
        "buffers": {name: buffer.detach().clone() for name, buffer in state.model.named_buffers()},
        "companions": copy.deepcopy(companions),
    }


@torch.no_grad()
def _put_back(state: TrainState, kept: dict[str, Any]) -> None:
    buffers: dict[str, nn.Buffer] = dict(state.model.named_buffers())  # type: ignore[arg-type]
    for name, value in kept["buffers"].items():
        buffers[name].copy_(value)
    for companion, (network, optimizer) in zip(state.companions.values(), kept["companions"], strict=True):
        companion.network.load_state_dict(network)
        companion.optimizer.load_state_dict(copy.deepcopy(optimizer))  # it would continue with the tensors themselves

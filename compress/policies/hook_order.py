"""Whether a training loop calls the scheduler's hooks as they must be called; what it lacks is said.

`HookOrder`. A hook is missed only where something needs it: a policy that acts there in this epoch, or a mask, which
the optimizer's momentum moves. That the optimizer has stepped is known by a hook of its own, so a minibatch that a
loop leaves out (no step) does not count as lacking a hook.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compress.errors import UserError

ORDER = (
    "on_epoch_begin; for each minibatch: on_minibatch_begin, forward, loss, before_backward_pass, backward, "
    "before_parameter_optimization, optimizer.step, on_minibatch_end; on_epoch_end"
)
logger = logging.getLogger("compress")
Needs = Callable[[str], list[str]]  # hook -> names of those that act there in the present epoch


@dataclass
class Acted:
    """The scheduler that acted on a network last; it may be gone.

    Attributes:
        order: what follows its loop.
        masked: the weights that it held at zero in part when its last epoch ended.
    """

    order: "weakref.ref[HookOrder]"
    masked: frozenset[str] = frozenset()


LATEST: "weakref.WeakKeyDictionary[nn.Module, Acted]" = weakref.WeakKeyDictionary()


class HookOrder:
    """Follows a loop.

    Args:
        model: the scheduler's network.
        masked: gives the names of the weights of which the scheduler holds a part at zero.

    Attributes:
        epoch: that began last; None before the first one.
        resumed: a state was loaded, so the loop may be inside of an epoch.
        skips: epochs are left out on purpose, so that is not warned of.
    """

    def __init__(self, model: nn.Module, masked: Callable[[], Iterable[str]] = tuple) -> None:
        self._model, self._masked = model, masked
        self._displaced = False  # another scheduler of the network has begun since
        self._earlier: frozenset[str] = frozenset()  # what the scheduler before this one held at zero
        self.epoch: int | None = None
        self.resumed = False
        self.skips = False
        self._over = True  # the epoch has ended
        self._open: int | None = None  # the minibatch under way
        self._minibatches = False  # whether the epoch had any
        self._reached: set[str] = set()
        self._early: tuple[int, int] | None = None  # a minibatch whose later hooks came before its begin
        self._stepped = False
        self._watched: Optimizer | None = None

    def watch(self, optimizer: Optimizer | None) -> None:
        """Notes each step of the optimizer from now on."""
        if optimizer is not None and optimizer is not self._watched and hasattr(optimizer, "register_step_post_hook"):
            self._watched = optimizer
            optimizer.register_step_post_hook(self._note_step)

    def restart(self) -> None:
        """A state was loaded."""
        watched, skips = self._watched, self.skips
        self.__init__(self._model, self._masked)  # type: ignore[misc]
        self._watched, self.skips, self.resumed = watched, skips, True

    def begin_epoch(self, epoch: int, needs: Needs) -> None:
        """`on_epoch_begin`."""
        self._act_alone()
        if self.epoch is not None and not self.resumed and epoch < self.epoch:
            raise UserError(
                f"epoch {epoch} begins after epoch {self.epoch}: policies act once and learning rates do not go back; "
                "load the scheduler's state of that moment (load_state_dict), or build a new scheduler"
            )
        if self.epoch is not None and not (self.resumed or self.skips) and epoch > self.epoch + 1:
            logger.warning(
                "epoch %d begins after epoch %d: what the schedule does in the epochs between is left out; begin "
                "and end every epoch, or load the scheduler's state of another run (load_state_dict)",
                epoch, self.epoch,
            )  # fmt: skip
        self._close_minibatch(needs)
        if not self._over and epoch != self.epoch:
            self._miss("on_epoch_end", needs("on_epoch_end"), f"epoch {epoch} begins")
        self.epoch, self._over, self._minibatches, self.resumed = epoch, False, False, False
        self._stepped, self._open = False, None

    def begin_minibatch(self, epoch: int, step: int, needs: Needs) -> None:
        """`on_minibatch_begin`."""
        self._act_alone()
        self._inside(epoch, "on_minibatch_begin", needs)
        self._close_minibatch(needs)
        if self._early == (epoch, step):
            self._miss("on_minibatch_begin before the others", needs("on_minibatch_begin"), f"minibatch {step} begins")
        self._open, self._minibatches, self._reached, self._stepped = step, True, set(), False

    def within(self, hook: str, epoch: int, step: int, needs: Needs) -> None:
        """`before_backward_pass` and `before_parameter_optimization`."""
        self._inside(epoch, hook, needs)
        if self._open != step:
            self._early = (epoch, step)
        if self._stepped and self._open == step:
            self._miss(f"{hook} before optimizer.step()", needs(hook), "the optimizer has stepped already")
        if hook == "before_backward_pass" and "before_parameter_optimization" in self._reached:
            self._miss(f"{hook} before before_parameter_optimization", needs(hook), "it comes too late")
        self._reached.add(hook)

    def end_minibatch(self, epoch: int, step: int, needs: Needs) -> None:
        """`on_minibatch_end`."""
        self._inside(epoch, "on_minibatch_end", needs)
        if self._open != step:
            self._miss("on_minibatch_begin", needs("on_minibatch_begin"), f"minibatch {step} ends")
        if self._stepped and "before_backward_pass" not in self._reached:
            self._miss("before_backward_pass", needs("before_backward_pass"), f"minibatch {step} ends")
        self._open, self._stepped = None, False
        self._tell_of_lost()

    def end_epoch(self, epoch: int, needs: Needs) -> None:
        """`on_epoch_end`."""
        self._inside(epoch, "on_epoch_end", needs)
        self._close_minibatch(needs)
        self._over, self._open = True, None
        LATEST[self._model] = Acted(weakref.ref(self), frozenset(self._masked()))

    def _act_alone(self) -> None:
        """Raises UserError where two schedulers take turns on one network; a second one may follow a first."""
        last = LATEST.get(self._model)
        other = None if last is None else last.order()
        if last is not None and other is not self:
            if self._displaced:
                raise UserError(
                    f"two schedulers act on this {type(self._model).__name__} in turns: masks, rates and loss terms of "
                    "both would be applied, each without knowing the other's; put all policies into one schedule"
                )
            if other is not None:
                other._displaced = True
            self._earlier = frozenset() if self.resumed else last.masked
            LATEST[self._model] = Acted(weakref.ref(self))
        elif last is None:
            LATEST[self._model] = Acted(weakref.ref(self))

    def _tell_of_lost(self) -> None:
        names, self._earlier = self._earlier - frozenset(self._masked()), frozenset()
        if names:
            logger.warning(
                "an earlier scheduler of this %s held a part of %d weights at zero (%s%s), and this one does not: its "
                "training moves them, and the zeros are lost. Put all policies into one schedule, whose masks hold "
                "after a pruner's last epoch, or thin the network first",
                type(self._model).__name__, len(names), ", ".join(sorted(names)[:3]), ", ..." if len(names) > 3 else "",
            )  # fmt: skip

    def _inside(self, epoch: int, hook: str, needs: Needs) -> None:
        if self.resumed:
            self.epoch, self._over, self.resumed = epoch, False, False
        trained = self._stepped or (self._watched is None and hook == "on_minibatch_end")
        if trained and (self.epoch != epoch or (self._over and hook != "on_epoch_end")):
            self._miss("on_epoch_begin", needs("on_epoch_begin"), f"{hook} is called in epoch {epoch}")

    def _close_minibatch(self, needs: Needs) -> None:
        """The optimizer must not have stepped since the last minibatch ended, or without one."""
        if not self._stepped or self._over:
            return
        missing = "on_minibatch_end" if self._open is not None else "on_minibatch_begin"
        if self._open is None and self._minibatches:
            self._miss("on_minibatch_end after optimizer.step()", needs("on_minibatch_end"), "it has stepped after it")
        self._miss(missing, needs(missing) or needs("on_minibatch_end"), "the optimizer has stepped")
        if not self._minibatches:
            self._miss("before_backward_pass", needs("before_backward_pass"), "the optimizer has stepped")

    def _miss(self, missing: str, needed_by: list[str], moment: str) -> None:
        """Raises UserError where something needs what is missing."""
        if needed_by:
            raise UserError(
                f"the training loop does not call {missing} ({moment}), which {', '.join(needed_by[:3])} "
                f"{'needs' if len(needed_by) == 1 else 'need'}; the order of the hooks is: {ORDER}"
            )

    def _note_step(self, *arguments: Any) -> None:
        self._stepped = True

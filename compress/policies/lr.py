"""WHEN learning rates change: the policy of every learning-rate schedule.

`LRPolicy`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    MultiStepLR,
    ReduceLROnPlateau,
    StepLR,
)

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.policies.base import Policy
from compress.registry import LR_SCHEDULERS

logger = logging.getLogger("compress")
LINE = "line"  # key of the state
JUMPS = (StepLR, MultiStepLR, ConstantLR, CosineAnnealingWarmRestarts)  # others have an attribute `jumps`
OF_OPTIMIZER = ("use_beta1",)  # keys of a scheduler's state that say which settings its optimizer has
NOT_SET = ("params", "param_names", "initial_lr")  # of a group: what is no setting of the optimizer's step
PER_GROUP = ("max_lr", "base_lr", "min_lr", "base_momentum", "max_momentum")  # where a list is one number a group


class LRPolicy(Policy):
    """Steps a learning-rate scheduler at each firing epoch's end, on the schedule's own clock.

    Epochs are absolute, as in Distiller: a policy that starts at epoch 5 leaves the rate alone through epoch 5,
    then sets what its scheduler gives for epoch 6 of a run that it had governed from the start. The clock is
    reached by plain steps, so that every class works, also those that cannot be set to an epoch. What other
    policies did before is undone, except for what `ReduceLROnPlateau` has learned of the rate: that class has no
    clock, continues from the rates that it finds, and is gone on from.

    Args:
        name: the instance's name.
        window: the firing epochs.
        optimizer: whose learning rates are set.
        scheduler_class: a class of torch.optim.lr_scheduler, or one of the same interface.
        arguments: of its constructor, without the optimizer.
        interval: how often the rate moves: `epoch`, at the end of each firing epoch; `minibatch`, in each minibatch of
            a firing epoch, on the straight line from the rate of this epoch to that of the next (what else the class
            moves, such as momenta, follows in the same way). The class counts epochs in both cases.

    Raises:
        ValueError: `minibatch`, and the class (or a part of it) sets the rate in jumps, or by metrics of the epoch.
    """

    def __init__(
        self,
        name: str,
        window: EpochWindow,
        optimizer: Optimizer,
        scheduler_class: type[LRScheduler],
        arguments: dict[str, Any],
        *,
        interval: Literal["epoch", "minibatch"] = "epoch",
    ) -> None:
        super().__init__(name, window)
        if interval == "minibatch":
            _refuse_jumps(scheduler_class, arguments, optimizer)
        self.optimizer = optimizer
        self.scheduler_class = scheduler_class
        self.arguments = arguments
        self.interval = interval
        self.scheduler: LRScheduler | None = None
        self._groups = len(optimizer.param_groups)  # of the network; quantizers and distillers add theirs later
        self._initial: list[Any] = []  # first rates of the scheduler, which OneCycleLR chooses itself
        self._line: list[dict[str, Any]] | None = None  # of each group: setting -> its value in this epoch and the next
        self._told = False

    def on(self, optimizer: Optimizer) -> "LRPolicy":
        """The same policy, not yet started, on another optimizer."""
        kind, arguments, interval = self.scheduler_class, self.arguments, self.interval
        twin = LRPolicy(self.name, self.window, optimizer, kind, arguments, interval=interval)
        twin._groups = self._groups
        return twin

    def on_epoch_begin(self, ctx: StepContext) -> None:
        """The rate of epoch 0, which a warm-up may lower."""
        self.begin(ctx.epoch)

    def on_minibatch_begin(self, ctx: StepContext) -> None:
        """The rate of this minibatch, where it moves in each."""
        if self._line is not None:
            self._move(min(ctx.step / max(ctx.steps_per_epoch, 1), 1.0))

    def cut_short(self, epochs: int) -> str:
        """A sentence where a cycle's end lies behind what the policy and the run do of it."""
        length_of = getattr(self.scheduler_class, "length_of", None)
        length = length_of(self.arguments) if length_of else None
        last = min(self.window.last, epochs - 1)
        fits = last + (2 if self.interval == "minibatch" else 1)
        if length is None or length <= fits:
            return ""
        return (
            f"the cycle of {self.name!r} takes {length} epochs, and it acts until epoch {last}: the rate stops on its "
            f"way; total_steps={fits} ends there"
        )

    def plan_note(self) -> str:
        """That the rate moves inside of epochs, where it does."""
        if self.interval == "epoch":
            return ""
        return f"{self.name} moves the rate in each minibatch, on the line from an epoch's rate to the next one's"

    def needs(self, hook: str, epoch: int) -> bool:
        """The minibatches' begin only where the rate moves there."""
        return hook != "on_minibatch_begin" or self.interval == "minibatch"

    def on_epoch_end(self, ctx: StepContext) -> None:
        """The rate of the next epoch."""
        if ctx.metrics is None and issubclass(self.scheduler_class, ReduceLROnPlateau):
            self._tell_of_metrics(ctx.epoch)
        self.end(ctx.epoch, ctx.metrics)

    def begin(self, epoch: int) -> None:
        """Starts the clock if this is epoch 0, and finds where the rates of an epoch's minibatches lead."""
        if epoch == 0 and self.scheduler is None:
            self.scheduler = self._start()
        if self.interval == "minibatch":
            if self._line is None:  # else a loop begins the epoch once more
                here = self._settings()
                self._tick_to(epoch + 1)
                pairs = zip(here, self._settings(), strict=True)
                self._line = [{key: [a[key], b[key]] for key in a if not _same(a[key], b[key])} for a, b in pairs]
            self._move(0.0)

    def end(self, epoch: int, metrics: dict[str, Any] | None) -> None:
        """Moves the clock to `epoch` + 1.

        Raises:
            UserError: the class needs a metric that the training loop does not report.
        """
        if self._line is not None:
            self._move(1.0)
            self._line = None
        if not issubclass(self.scheduler_class, ReduceLROnPlateau):
            self._tick_to(epoch + 1)
            return
        if self.scheduler is None:
            self.scheduler = self._start()
        assert isinstance(self.scheduler, ReduceLROnPlateau)
        if metrics is not None:
            with _first_rates_follow(self.optimizer):
                self.scheduler.step(self._metric(metrics, self.scheduler.mode))

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's own state, inside of an epoch also where its rates lead; {} before it started."""
        if self.scheduler is None:
            return {}
        return {**self.scheduler.state_dict(), **({} if self._line is None else {LINE: self._line})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the clock; the optimizer's present rates and momenta stay as they are."""
        self._line = state.get(LINE)
        if not state:
            self.scheduler = None
            return
        settings = [
            {k: copied_setting(v) for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups
        ]
        self.scheduler = self._start()
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key not in (LINE, *OF_OPTIMIZER)})
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            for key, value in setting.items():
                set_in_place(group, key, value)

    def _tick_to(self, epoch: int) -> None:
        """Steps the scheduler until it gives the rates of an epoch."""
        if self.scheduler is None:
            self.scheduler = self._start()
        with _torch_order_warning_off(), self._own_first_rates():
            while self.scheduler.last_epoch < epoch:
                self.scheduler.step()

    def _settings(self) -> list[dict[str, Any]]:
        """What each group is set to now."""
        groups = self.optimizer.param_groups
        return [{key: copied_setting(value) for key, value in group.items() if key not in NOT_SET} for group in groups]

    def _move(self, fraction: float) -> None:
        """Sets what lies at a fraction of the way from this epoch's settings to the next one's."""
        assert self._line is not None
        for group, settings in zip(self.optimizer.param_groups, self._line, strict=False):  # a new group stays as it is
            for key, (here, there) in settings.items():
                if key in group:  # else the state is of another class of optimizer
                    set_in_place(group, key, _between(here, there, fraction))

    def _start(self) -> LRScheduler:
        groups = self.optimizer.param_groups
        arguments = _for_all_groups(self.arguments, groups, self._groups)
        if issubclass(self.scheduler_class, ReduceLROnPlateau):
            return self.scheduler_class(self.optimizer, **arguments)
        kept = [group.pop("initial_lr", copied_setting(group["lr"])) for group in groups]
        for group, first in zip(groups, kept, strict=True):  # an earlier policy may have moved the rate
            set_in_place(group, "lr", first)
        scheduler = self.scheduler_class(self.optimizer, **arguments)
        self._initial = _exchanged(groups, kept)
        return scheduler

    @contextmanager
    def _own_first_rates(self) -> Iterator[None]:
        """The groups' `initial_lr` as the scheduler has set it; what other policies start from is put back."""
        kept = _exchanged(self.optimizer.param_groups, self._initial)
        yield
        self._initial = _exchanged(self.optimizer.param_groups, kept)

    def _tell_of_metrics(self, epoch: int) -> None:
        if not self._told:
            self._told = True
            mode = self.arguments.get("mode", "min")
            logger.warning(
                "lr_schedulers.%s: ReduceLROnPlateau did nothing at the end of epoch %d, since on_epoch_end was given "
                "no metrics; call on_epoch_end(epoch, optimizer, metrics={%r: VALUE}). Until then the rate stays",
                self.name, epoch, mode,
            )  # fmt: skip

    def _metric(self, metrics: dict[str, Any], mode: str) -> float:
        if not isinstance(metrics, Mapping) or mode not in metrics:
            given = sorted(metrics) if isinstance(metrics, Mapping) else repr(metrics)
            raise UserError(
                f"lr_schedulers.{self.name}: ReduceLROnPlateau(mode={mode}) needs metrics[{mode!r}] in on_epoch_end; "
                f"the training loop gave {given}"
            )
        return float(metrics[mode])


def _refuse_jumps(scheduler_class: type, arguments: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raises ValueError for what has no straight line to the next epoch's rate."""
    if issubclass(scheduler_class, ReduceLROnPlateau):
        raise ValueError(
            "interval minibatch: ReduceLROnPlateau knows the next epoch's rate only when this one is validated; leave "
            "interval out"
        )
    for cls, own in _classes(scheduler_class, arguments):
        if refuse_jump := getattr(cls, "refuse_jump", None):
            refuse_jump(shadow_of(optimizer), own)
        if issubclass(cls, JUMPS) or getattr(cls, "jumps", False):
            raise ValueError(
                f"interval minibatch: {cls.__name__} sets the rate in jumps, which would become slopes over the epoch "
                "before them; leave interval out"
            )


def _classes(scheduler_class: type, arguments: Mapping[str, Any]) -> Iterator[tuple[type, Mapping[str, Any]]]:
    """A scheduler's class and those of its parts that are written in place, with their arguments."""
    yield scheduler_class, arguments
    for value in arguments.values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Mapping) and part.get("class") in LR_SCHEDULERS:
                yield from _classes(LR_SCHEDULERS.get(part["class"]), part)


def _between(here: Any, there: Any, fraction: float) -> Any:
    """A setting at a fraction of the way, the ends exactly; what is no number stays until the end."""
    if fraction in (0.0, 1.0):
        return copied_setting(there if fraction else here)
    if isinstance(here, tuple | list):
        return tuple(_between(a, b, fraction) for a, b in zip(here, there, strict=True))
    if isinstance(here, bool) or not (
        isinstance(here, int | float | Tensor) and isinstance(there, int | float | Tensor)
    ):
        return here
    return here + (there - here) * fraction


def _same(one: Any, other: Any) -> bool:
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


def set_in_place(group: dict[str, Any], key: str, value: Any) -> None:
    """As torch's schedulers do: a rate that is a tensor is changed in place, since a compiled step holds it."""
    if isinstance(group.get(key), Tensor):
        group[key].copy_(value) if isinstance(value, Tensor) else group[key].fill_(value)
    else:
        group[key] = value


def _torch_order_warning_off() -> warnings.catch_warnings:
    """torch warns when a scheduler steps before the optimizer did, which fast-forwarding does on purpose."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _exchanged(groups: list[dict[str, Any]], rates: list[Any]) -> list[Any]:
    """Gives each group another first rate; returns those that they had."""
    before = [group["initial_lr"] for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["initial_lr"] = rate
    return before


@contextmanager
def _first_rates_follow(optimizer: Optimizer) -> Iterator[None]:
    """Policies that start later start from rates that are lowered as the present ones are."""
    before = [float(group["lr"]) for group in optimizer.param_groups]
    yield
    for group, rate in zip(optimizer.param_groups, before, strict=True):
        if "initial_lr" in group and float(group["lr"]) != rate:
            group["initial_lr"] = group["initial_lr"] * (float(group["lr"]) / rate)


def shadow_of(optimizer: Optimizer) -> Optimizer:
    """An optimizer without parameters that has the groups and settings of another, to rehearse on."""
    shadow = SGD([nn.Parameter(torch.zeros(0))], lr=0.0)
    shadow.defaults = dict(optimizer.defaults)
    shadow.param_groups[:] = [
        {
            **{key: copied_setting(value) for key, value in group.items()},
            "params": [],
            "lr": copied_setting(group.get("initial_lr", group["lr"])),
        }
        for group in optimizer.param_groups
    ]
    return shadow


def _for_all_groups(arguments: Mapping[str, Any], groups: list[dict[str, Any]], given: int) -> dict[str, Any]:
    """The arguments, in which a list of numbers for the network's groups continues for those that were added later.

    A group that was added has the first group's number; a rate is multiplied as its own rate is to the first one's.
    """
    return {key: _for_all(key, value, groups, given) for key, value in arguments.items()}


def _for_all(key: str, value: Any, groups: list[dict[str, Any]], given: int) -> Any:
    if isinstance(value, Mapping):  # a part that is written in place
        return _for_all_groups(value, groups, given)
    if isinstance(value, list | tuple) and key in PER_GROUP and len(value) == given:
        first = float(groups[0].get("initial_lr", groups[0]["lr"])) or 1.0
        ratios = [float(each.get("initial_lr", each["lr"])) / first for each in groups[given:]]
        return [*value, *(value[0] * (ratio if key.endswith("lr") else 1.0) for ratio in ratios)]
    return [_for_all("", each, groups, given) for each in value] if isinstance(value, list) else value


def copied_setting(value: Any) -> Any:
    """A rate may be a tensor, which torch's schedulers change in place."""
    return value.clone() if isinstance(value, Tensor) else value

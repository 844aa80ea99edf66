"""Learning-rate schedules made of others: `SequentialLR`, `ChainedScheduler`, `WarmupLR`.

Torch's two classes with their parts written in place (`{class: CLASS, ...arguments}`), and a warm-up.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from compress.arguments.checked import CheckedArguments
from compress.registry import LR_SCHEDULERS, InstanceOf

Part = Annotated[dict[str, Any], InstanceOf(LR_SCHEDULERS)]


def make_part(optimizer: Optimizer, given: Mapping[str, Any]) -> LRScheduler:
    """The scheduler of `{class: CLASS, ...arguments}`.

    Raises:
        ValueError: the class is missing, or it needs a metric.
    """
    arguments = {key: value for key, value in given.items() if key != "class"}
    if "class" not in given:
        raise ValueError(f"given {dict(given)!r}; a part is written {{class: CLASS, ...arguments}}")
    if given["class"] == "ReduceLROnPlateau":
        raise ValueError("ReduceLROnPlateau follows a metric, so it cannot be a part; give it a policy of its own")
    part: LRScheduler = LR_SCHEDULERS.get(given["class"])(optimizer, **arguments)
    return part


def _make_parts(optimizer: Optimizer, given: Sequence[Mapping[str, Any]]) -> list[LRScheduler]:
    """Each part starts from the optimizer's first rate, not from what the part before it made of that."""
    parts = []
    for part in given:
        for group in optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        parts.append(make_part(optimizer, part))
    return parts


@LR_SCHEDULERS.register
class SequentialLR(CheckedArguments, lr_scheduler.SequentialLR):
    """One schedule after the other: each begins anew at its milestone.

    Source: torch.optim.lr_scheduler.SequentialLR, with its parts written in place.

    When to use: a warm-up or a plateau before another schedule, by epochs.

    Sample:
        lr_schedulers:
          two_parts:
            class: SequentialLR
            schedulers:
              - {class: ConstantLR, factor: 0.1, total_iters: 3}
              - {class: ExponentialLR, gamma: 0.9}
            milestones: [3]

    Args:
        schedulers: the parts, in order.
        milestones: the epochs at which the second, third, ... part begins; one fewer than parts.

    Raises:
        ValueError: the numbers do not fit, or a part follows a metric.
    """

    jumps = True  # where its parts meet

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[Part],
        milestones: list[Annotated[int, Field(ge=1)]],
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones {milestones} must ascend")
        super().__init__(optimizer, _make_parts(optimizer, schedulers), list(milestones), last_epoch)


@LR_SCHEDULERS.register
class ChainedScheduler(CheckedArguments, lr_scheduler.ChainedScheduler):
    """Several schedules at once: their factors multiply.

    Source: torch.optim.lr_scheduler.ChainedScheduler, with its parts written in place. Parts that compute the rate from
    the first rate instead of the present one (`PolynomialLR`, `MultiStepMultiGammaLR` here) overwrite the parts before
    them; put those first.

    When to use: a warm-up on top of a decay that runs from epoch 0.

    Sample:
        lr_schedulers:
          both:
            class: ChainedScheduler
            schedulers:
              - {class: ConstantLR, factor: 0.1, total_iters: 3}
              - {class: ExponentialLR, gamma: 0.9}

    Args:
        schedulers: the parts.

    Raises:
        ValueError: there are no parts, or a part follows a metric.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[Part]) -> None:
        if not schedulers:
            raise ValueError("schedulers: at least one part is needed")
        for group in optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        super().__init__([make_part(optimizer, part) for part in schedulers], optimizer)

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """The parts' clock, by which a policy knows where this one stands."""
        return self._schedulers[0].last_epoch


@LR_SCHEDULERS.register
class WarmupLR(CheckedArguments, lr_scheduler.SequentialLR):
    """Raises the rate in equal steps from a fraction of it to all of it, then hands over to another schedule.

    Paper: Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv 1706.02677, section 2.2 (gradual warm-up), by epochs.
    Epoch e < `warmup_epochs` has the rate base * (start_factor + (1 - start_factor) * e / warmup_epochs); from then on
    `after` runs, its clock beginning at 0; without it the rate stays.

    When to use: large batches, Adam on transformers, or a pruned network whose first epochs are unsteady.

    Sample:
        lr_schedulers:
          warm:
            class: WarmupLR
            warmup_epochs: 3
            start_factor: 0.1
            after: {class: CosineAnnealingLR, T_max: 30}

    Args:
        warmup_epochs: length, >= 1.
        start_factor: fraction of the rate in epoch 0, (0, 1].
        after: the schedule that follows, written in place; None keeps the rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_epochs: Annotated[int, Field(ge=1)],
        start_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1,
        after: Part | None = None,
        last_epoch: int = -1,
    ) -> None:
        steady = {"class": "ConstantLR", "factor": 1.0, "total_iters": 1}
        warmup = {"class": "LinearLR", "start_factor": start_factor, "total_iters": warmup_epochs}
        parts = _make_parts(optimizer, [warmup, after or steady])
        super().__init__(optimizer, parts, [warmup_epochs], last_epoch)

    @staticmethod
    def refuse_jump(shadow: Optimizer, arguments: Mapping[str, Any]) -> None:
        """Refuses an `after` that begins at another rate than the warm-up ends with: a slope in each minibatch.

        Args:
            shadow: an optimizer like the network's, which is changed.
            arguments: of the constructor.

        Raises:
            ValueError: it does.
        """
        after = arguments.get("after")
        if not after:
            return
        ends = [float(group["lr"]) for group in shadow.param_groups]
        with suppress(ValueError, TypeError, ArithmeticError, LookupError, AttributeError):  # told when it is built
            make_part(shadow, after)
        begins = [float(group["lr"]) for group in shadow.param_groups]
        for end, begin in zip(ends, begins, strict=True):
            if not math.isclose(end, begin, rel_tol=1e-6):
                raise ValueError(
                    f"interval minibatch: the warm-up ends with the rate {end:.3g} and after begins with {begin:.3g}, "
                    "a jump, which would become a slope over the epoch before it; leave interval out"
                )

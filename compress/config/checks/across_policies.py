"""Checks that need more than one policy: overlaps, unused instances, the run's length.

Pure checks that add to a report.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from compress.arguments.places import Path
from compress.config.checks.distillers import check_distillers
from compress.config.errors.faults import Report
from compress.config.families import FAMILIES, Instance
from compress.epoch_window import EpochWindow
from compress.errors import shown
from compress.policies.base import Policy
from compress.policies.fusing import FusingPolicy
from compress.policies.lr import LRPolicy, shadow_of
from compress.policies.overlaps import meetings
from compress.policies.pruning import PruningPolicy
from compress.policies.quantization import QuantizationPolicy
from compress.policies.regularization import RegularizationPolicy
from compress.policies.thinning import ThinningPolicy

CONSTRUCTOR_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)  # torch's raise any of them


def in_words(error: Exception) -> str:
    """The message of an error; the name of its kind where the message alone says nothing, such as `KeyError: 'x'`."""
    if isinstance(error, ZeroDivisionError):
        return "with these arguments it divides by zero: one of them, of steps or epochs as a rule, is too small"
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"


def is_lr(policy: Policy) -> bool:
    """Whether a policy sets learning rates; those act after all others, as in Distiller."""
    return isinstance(policy, LRPolicy)


def check_policies(
    entries: list[tuple[Path, Policy]], epochs: int | None, report: Report, all_there: bool = True
) -> None:
    """Warns of policies outside the run or cut short, two pruners on a weight in one epoch, a mask that is never made.

    Args:
        entries: policies with their places.
        epochs: the run's length.
        report: takes the warnings.
        all_there: whether every policy of the schedule is among the entries. Where a faulty one is missing, nothing is
            said of what it may have done: that would be a consequence of the fault, not another one.
    """
    pruning = [(path, policy) for path, policy in entries if isinstance(policy, PruningPolicy)]
    by_weight: dict[tuple[str, str], list[int]] = {}
    for i, (_, each) in enumerate(pruning):
        for name in sorted(set(each.pruner.weights)):
            by_weight.setdefault((name, each.pruner.stands_beside(name) or ""), []).append(i)
    windows = [each.window for _, each in pruning]
    for earlier, later, (weight, _), epoch in meetings(windows, dict(sorted(by_weight.items()))):
        other = pruning[earlier][1]
        message = f"{other.name!r} prunes {weight!r} in epoch {epoch} too; this later policy's mask counts"
        report.add(message, pruning[later][0], fatal=False)
    check_learning_rates(entries, report)
    check_quantizers(entries, report)
    check_distillers(entries, report)
    if all_there:
        _check_thinners(entries, report)
    for path, policy in entries:
        if isinstance(policy, RegularizationPolicy) and policy.keeps_nothing:
            message = f"keep_mask keeps nothing: {policy.name!r} has no threshold_criteria, so it makes no mask"
            report.add(message, path, fatal=False)
        if epochs is not None and policy.window.first >= epochs:
            message = f"{policy.name!r} never acts: the run ends after epoch {epochs - 1}, it starts in {policy.window}"
            report.add(message, path, fatal=False)
        elif epochs is not None and (message := policy.cut_short(epochs)):
            report.add(message, path, fatal=False)


def check_learning_rates(entries: list[tuple[Path, Policy]], report: Report) -> None:
    """Where a rate moves in each minibatch, one policy moves it: what another does in that epoch would be undone."""
    moving = [(path, policy) for path, policy in entries if isinstance(policy, LRPolicy)]
    by_optimizer: dict[int, list[int]] = {}
    for i, (_, each) in enumerate(moving):
        by_optimizer.setdefault(id(each.optimizer), []).append(i)
    for earlier, later, _, epoch in meetings([each.window for _, each in moving], by_optimizer):
        other, policy = moving[earlier][1], moving[later][1]
        if "minibatch" in (other.interval, policy.interval):
            message = (
                f"{other.name!r} sets the learning rate in epoch {epoch} too, and with interval minibatch only one "
                "policy can; let one end where the other starts, or make them parts of a ChainedScheduler"
            )
            report.add(message, moving[later][0])


def check_quantizers(entries: list[tuple[Path, Policy]], report: Report) -> None:
    """A network is quantized once, by one policy, and fused and thinned before that."""
    quantizing = [policy for _, policy in entries if isinstance(policy, QuantizationPolicy)]
    others = {id(policy) for policy in quantizing[1:]}
    for path, policy in entries:
        if id(policy) in others:
            message = f"{quantizing[0].name!r} quantizes the network already; a schedule has one such policy"
            report.add(message, path)
        if quantizing and isinstance(policy, ThinningPolicy) and policy.window.last >= quantizing[0].window.first:
            message = (
                f"{policy.name!r} thins in epoch {policy.window.last}, when {quantizing[0].name!r} has quantized the "
                f"network (from epoch {quantizing[0].window.first} on); thin in an earlier epoch than that"
            )
            report.add(message, path)
        if quantizing and isinstance(policy, FusingPolicy) and not _comes_first(policy, quantizing[0], entries):
            message = (
                f"{policy.name!r} fuses blocks in epoch {policy.window.last}, when {quantizing[0].name!r} has "
                f"quantized the network (from epoch {quantizing[0].window.first} on); fuse before that"
            )
            report.add(message, path)


def _comes_first(policy: Policy, other: Policy, entries: list[tuple[Path, Policy]]) -> bool:
    """Whether a policy's one epoch begins before another policy's first one; in one epoch the list's order counts."""
    order = {id(each): number for number, (_, each) in enumerate(entries)}
    return (policy.window.first, order[id(policy)]) < (other.window.first, order[id(other)])


def _check_thinners(entries: list[tuple[Path, Policy]], report: Report) -> None:
    """Warns of a thinner that finds no zeros by its last epoch.

    A pruner that stands before the thinner makes them in that epoch itself; a regularizer, wherever it stands, with its
    first minibatch, which is too late, unless it is its own last epoch: there the thinner waits.
    """
    regularizing = [each.window for _, each in entries if isinstance(each, RegularizationPolicy) and each.makes_zeros]
    begins = min((window.first for window in regularizing), default=math.inf)
    ends = {window.last for window in regularizing}
    pruned = math.inf  # the first epoch of a pruner so far
    for path, policy in entries:
        if isinstance(policy, PruningPolicy):
            pruned = min(pruned, policy.window.first)
        if isinstance(policy, ThinningPolicy):
            last = policy.window.last
            if not (pruned <= last or begins < last or last in ends):
                message = (
                    f"nothing before {policy.name!r} makes zeros (a pruner, or a regularizer with threshold_criteria), "
                    "so it would remove nothing"
                )
                report.add(message, path, fatal=False)


def check_unused(data: Mapping[str, Any], named: set[str], report: Report) -> None:
    """Warns of instances that no policy uses; `named` is what the policies name, misspelt names as what they mean."""
    if not data.get("policies"):
        return  # reported already
    for family in FAMILIES:
        for name in data.get(family.section) or {}:
            if str(name) not in named:
                message = f"no policy uses {shown(name)}, so it never acts"
                report.add(message, (family.section, str(name)), fatal=False)


def try_lr_scheduler(instance: Instance, window: EpochWindow, optimizer: Optimizer) -> None:
    """Rehearses the scheduler on a shadow of the optimizer over the policy's epochs, so that its faults show now.

    Raises:
        ValueError: a rate comes out that is negative or not a number.
        CONSTRUCTOR_FAULTS: as its constructor or its step does.
    """
    shadow = shadow_of(optimizer)
    policy = LRPolicy(instance.name, window, shadow, instance.cls, instance.arguments)
    for epoch in window.epochs:
        policy.begin(epoch)
        policy.end(epoch, None)
        rates = [float(group["lr"]) for group in shadow.param_groups]
        for rate in [rate for rate in rates if not 0.0 <= rate < math.inf]:
            raise ValueError(f"{instance.cls.__name__} sets a learning rate of {rate:g} after epoch {epoch}")

"""Checks of distillers beside other policies: whose terms they scale, and what their teacher `self` will be.

Here: checks that add to a report. Not here: a distiller by itself (its class), other pairs of policies (checks.py).
"""

from compress.config.loader import Path
from compress.config.report import Report
from compress.distillation.teachers import SELF
from compress.policies.base import Policy
from compress.policies.distillation import DistillationPolicy
from compress.policies.pruning import PruningPolicy
from compress.policies.quantization import QuantizationPolicy
from compress.policies.regularization import RegularizationPolicy


def check_distillers(entries: list[tuple[Path, Policy]], report: Report) -> None:
    """Warns of scaled terms and of a teacher that will be pruned; one that would be quantized is a fault."""
    for i, (path, policy) in enumerate(entries):
        if isinstance(policy, DistillationPolicy):
            _check_terms(policy, [each for _, each in entries[:i]], path, report)
    own = [(path, each) for path, each in entries if isinstance(each, DistillationPolicy)]
    selves = [(path, each) for path, each in own if each.distiller.teacher == SELF]
    if selves:
        path, first = min(selves, key=lambda entry: entry[1].window.first)
        _check_self(first, [each for _, each in entries], path, report)


def _check_terms(policy: DistillationPolicy, before: list[Policy], path: Path, report: Report) -> None:
    factor = policy.distiller.student_wt
    for other in before:
        meet = any(other.window.fires(epoch) for epoch in policy.window.epochs)
        if factor != 1.0 and meet and isinstance(other, RegularizationPolicy | DistillationPolicy):
            message = (
                f"student_wt {factor:g} of {policy.name!r} also multiplies the terms of {other.name!r}, which is "
                "listed before it; list the distiller first"
            )
            report.add(message, path, fatal=False)


def _check_self(policy: DistillationPolicy, policies: list[Policy], path: Path, report: Report) -> None:
    """What has happened to the network when the first distiller with the teacher `self` copies it."""
    start = policy.window.first
    copied = f"the teacher 'self' of {policy.name!r} is copied in epoch {start}"
    for other in policies:
        begins = other.window.first
        if isinstance(other, PruningPolicy) and begins < start:
            message = f"{copied}, and {other.name!r} prunes from epoch {begins} on: the teacher is the pruned network"
            report.add(f"{message}, not the dense one", path, fatal=False)
        earlier = begins == start and policies.index(other) < policies.index(policy)
        if isinstance(other, QuantizationPolicy) and (begins < start or earlier):
            message = f"{copied}, when {other.name!r} has quantized the network; begin it before that (list it first)"
            report.add(f"{message}, or name a checkpoint as teacher", path)

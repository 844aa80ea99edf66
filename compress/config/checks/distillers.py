"""Checks of distillers beside other policies: whose terms they scale, and what their teacher `self` will be.

Checks that add to a report.
"""

from torch import Tensor
from torch.utils import _pytree as pytree

from compress.arguments.places import Path
from compress.config.errors.faults import Report
from compress.distillation.outputs import KnowledgeDistillation
from compress.distillation.teachers import SELF
from compress.errors import UserError
from compress.graph.calls import calls_of
from compress.graph.trace import shape_of, trace_model
from compress.policies.base import Policy
from compress.policies.distillation import DistillationPolicy
from compress.policies.pruning import PruningPolicy
from compress.policies.quantization import QuantizationPolicy
from compress.policies.regularization import RegularizationPolicy
from compress.thinning.current import CurrentGraph


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


def check_outputs(entries: list[tuple[Path, Policy]], graph: CurrentGraph, report: Report) -> None:
    """Checks that the network's output can be class scores where a distiller takes a softmax of it."""
    own = [
        (path, policy)
        for path, policy in entries
        if isinstance(policy, DistillationPolicy) and isinstance(policy.distiller, KnowledgeDistillation)
    ]
    if not own or graph.inputs is None:
        return
    try:
        trace = trace_model(graph.network, graph.inputs)
    except UserError:
        return  # only the shape is asked for here
    shape = next(iter(map(shape_of, trace.results)), ())
    given = next(
        (
            tuple(each.shape)
            for each in pytree.tree_leaves(calls_of(graph.inputs)[0].inputs)
            if isinstance(each, Tensor)
        ),
        (),
    )
    for path, policy in own:
        classes = shape[1] if len(shape) > 1 else 0
        if classes == 1:
            message = f"the network's output {shape} has a single class, whose softmax is always 1, so {policy.name!r}"
            report.add(f"{message} teaches nothing; OutputDistillation compares outputs themselves", path)
        elif len(shape) == 4 and len(given) == 4 and classes == given[1]:
            report.add(
                f"the network makes images of images, {given} -> {shape}, and {policy.name!r} takes a softmax over "
                f"dimension 1 as if its {classes} channels were classes; for colours use OutputDistillation",
                path,
                fatal=False,
            )


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

"""Masked channels that end training: a square root of zero has no finite gradient, and the next factor of zero is NaN.

`steep_pins`, called by `prunable_graph`. The network without masks trains, and outputs of masked and thinned network
agree; only a backward pass with masks on shows it. That is run where the graph has an operation with such a gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from torch import nn
from torch.fx import Node

from compress.graph.calls import Call
from compress.graph.channels import ChannelGraph, Pin
from compress.graph.trace import Trace, module_of, operation_name
from compress.graph.values import bound_arguments
from compress.thinning.proof.copies import mask_removed, restored
from compress.thinning.proof.gradients import gradients
from compress.thinning.proof.inputs import fewer
from compress.thinning.proof.observe import FAILURES, ForwardFailed
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.proof.sizes import smaller
from compress.thinning.recipe import Recipe
from compress.thinning.removal_plan import plan_recipe

ALWAYS = frozenset(
    (
        "sqrt",
        "rsqrt",
        "reciprocal",
        "hypot",
        "atan2",
        "arctan2",
        "log",
        "log2",
        "log10",
        "xlogy",
        "logit",
        "float_power",
        "addcdiv",
        "cdist",
    )
)
QUOTIENTS = frozenset({"div", "divide", "true_divide"})
LINEAR = frozenset(f"linalg_{each}" for each in ("matmul", "multi_dot", "norm", "vector_norm", "cross", "diagonal"))
REASON = (
    "with its channels masked the gradients are no longer finite, so that training would end in NaN ({} of zero has no "
    "finite gradient): keep it from zero, as in torch.sqrt(y + 1e-12) or y / (s + 1e-12)"
)


def steep_pins(model: nn.Module, graph: ChannelGraph, traces: Sequence[Trace], calls: Sequence[Call]) -> list[Pin]:
    """The groups whose masked channels make gradients infinite or NaN, where without masks they are finite.

    Half of the units of a group are masked, on perturbed values.

    Args:
        model: left as it was.
        graph: of the model.
        traces: of the model.
        calls: real ones.
    """
    steep = dict.fromkeys(_named(node) for trace in traces for node in trace.operations if _is_steep(node))
    groups = graph.groups(prunable_only=True) if steep else ()
    if not groups:
        return []
    removed = {group.name: list(range((group.units + 1) // 2, group.units)) for group in groups}
    (call,) = fewer(smaller(model, calls[:1], ["train"]))

    def not_finite(names: Sequence[str]) -> frozenset[str] | None:
        recipe = plan_recipe(model, graph, {name: removed[name] for name in names}) if names else Recipe()
        with restored(model):
            mask_removed(model, recipe, tells=False)
            return _not_finite(model, call)

    for draw in (Draw(), None):
        with restored(model):
            if draw is not None:
                perturb(model, draw)
            before = not_finite([])
            if before == frozenset():
                found = _each(list(removed), lambda names: bool(not_finite(names)))
                reason = REASON.format(" or ".join(list(steep)[:3]))
                return [Pin.of(group, reason) for group in groups if group.name in found]
    return []


def _each(names: list[str], spoils: Callable[[Sequence[str]], bool]) -> list[str]:
    """The names that spoil it by themselves; halves that do not are left at once."""
    if not spoils(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return [*_each(names[:half], spoils), *_each(names[half:], spoils)]


def _not_finite(model: nn.Module, call: Call) -> frozenset[str] | None:
    """Parameters whose gradient is not finite in training mode, else in eval mode; None where neither runs."""
    for mode in ("train", "eval"):
        with contextlib.suppress(ForwardFailed, *FAILURES):
            found = gradients(model, call, mode, as_they_are=True)
            return frozenset(name for name, gradient in found.items() if not gradient.isfinite().all())
    return None


def _is_steep(node: Node) -> bool:
    """Whether an operation may have an infinite gradient where its input is zero."""
    name = operation_name(node).removesuffix("_")
    given = list(bound_arguments(node).values())
    if name == "pow":
        exponent = given[1] if len(given) > 1 else 1
        return isinstance(given[0], Node) and (isinstance(exponent, Node) or (exponent < 1 and exponent != 0))
    if name in QUOTIENTS:
        return len(given) > 1 and isinstance(given[1], Node)
    return name in ALWAYS or (name.startswith("linalg_") and name not in LINEAR)


def _named(node: Node) -> str:
    module = module_of(node)
    return operation_name(node) + (f" in {module!r}" if module else "")

"""The traces of both modes: `traces_of`; of eval mode alone: `trace_calls`. Training mode's is kept where it says
anything new.

An auxiliary head may run in training mode only, and fail there: the images are too small for its pooling, or a batch
norm has one value per channel. `training_trace` then doubles a batch of one, and else leaves out the
head that failed: what is fed to it is known, and nothing else has to stay. `alike` compares the traces.
What drops at random counts for nothing there, since it keeps everything while networks are compared.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.graph.calls import Call, Unused, calls_of, unused_in
from compress.graph.own_code import asks_for_gradients, asks_for_training, computes_shares
from compress.graph.recording.untraced import refuse_unusable
from compress.graph.recording.variation import noted
from compress.graph.recording.watch import watched
from compress.graph.sizes.elsewhere import numbers_elsewhere
from compress.graph.trace import (
    ExampleInputs,
    Trace,
    call_of,
    canonical_names,
    operation_name,
    shape_of,
    trace_model,
)
from compress.graph.values import bound_arguments

HEADS = 8
"""Most parts that may fail; each costs another trace."""


def traces_of(model: nn.Module, example_inputs: ExampleInputs) -> list[Trace]:
    """Of each call: eval mode, and training mode if the code asks for it, as far as it can be traced."""
    refuse_unusable(model)
    traces = []
    unused = unused_in(example_inputs, model)
    calls = calls_of(example_inputs)
    for call in calls:
        with watched(model), noted(model):
            trace = trace_model(model, [call, *unused])
            training = training_trace(model, call, unused, trace) if asks_for_training(model) else ""
        if isinstance(training, str):
            traces.append(replace(trace, untrained=training))
        else:
            same = not computes_shares(model) and not asks_for_gradients(model) and alike(trace, training)
            traces += [replace(trace, alike=True)] if same else [trace, training]
    traces = [_without_unread(trace) for trace in traces]
    elsewhere = numbers_elsewhere(model, {call.method.rpartition(".")[2] for call in calls})
    return [replace(traces[0], elsewhere=tuple(elsewhere)), *traces[1:]]


def _without_unread(trace: Trace) -> Trace:
    """A mean that nobody reads ties nothing: attention averages its weights over the heads for who may ask for them."""
    read = [
        node
        for node in trace.operations
        if operation_name(node) not in AVERAGES or node.users or node in trace.results or node.meta.get("custom")
    ]
    return replace(trace, operations=read) if len(read) < len(trace.operations) else trace


AVERAGES = frozenset({"mean", "sum"})


def trace_calls(model: nn.Module, example_inputs: ExampleInputs) -> list[Trace]:
    """A trace of each call in eval mode; arguments and errors as in `trace_model`."""
    return [trace_model(model, [call, *unused_in(example_inputs, model)]) for call in calls_of(example_inputs)]


def training_trace(model: nn.Module, call: Call, unused: Sequence[Unused], evaluated: Trace) -> Trace | str:
    """Trace a call in training mode, or all of it but for the parts that run in that mode alone and fail.

    Args:
        model: any module, left as it was.
        call: what is traced.
        unused: passed on to `trace_model`.
        evaluated: its trace in eval mode: what that reads is not for training alone.

    Returns:
        The trace, or why there is none.
    """
    try:
        return trace_model(model, [call, *unused], training=True)
    except UserError as raised:
        first = raised
    # BatchNorm refuses one value per channel in training mode, as on a 1 x 1 map in a batch of one; it accepts two.
    with contextlib.suppress(UserError):
        return trace_model(model, [_doubled(call), *unused], training=True)
    failed: dict[str, str] = {}
    error: UserError = first
    while len(failed) < HEADS:
        part = _only_in_training(model, error, evaluated, failed)
        if part is None:
            break
        failed[part] = "" if any(each.covers(f"{part}.") for each in unused) else _cause(error)
        try:
            with _left_out(model, failed):
                return replace(trace_model(model, [call, *unused], training=True), failed=failed)
        except UserError as raised:
            error = raised
    return _cause(first)


def _doubled(call: Call) -> Call:
    """The same call for a batch of two, where all tensors say that it is a batch of one."""
    leaves = [leaf for leaf in pytree.tree_leaves(call.inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not leaves or any(leaf.shape[0] != 1 for leaf in leaves):
        raise UserError("no batch of one")

    def twice(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() else leaf

    return replace(call, inputs=pytree.tree_map(twice, call.inputs))


def _only_in_training(model: nn.Module, error: UserError, evaluated: Trace, known: dict[str, str]) -> str | None:
    """The outermost part in which it failed of those whose parameters eval mode never reads."""
    names = {id(module): name for name, module in model.named_modules()}
    canonical = canonical_names(model)
    cause = error.__cause__
    # Frames run from the outside inwards, so that the first match is the whole auxiliary head, not its batch norm.
    for frame, _ in traceback.walk_tb(cause.__traceback__ if cause else None):
        name = names.get(id(frame.f_locals.get("self")), "")
        own = {canonical[each] for each in canonical if each.startswith(f"{name}.")} if name else set()
        if own and name not in known and not own & evaluated.read:
            return name
    return None


@contextlib.contextmanager
def _left_out(model: nn.Module, parts: dict[str, str]) -> Iterator[None]:
    """Inside, these parts read what they are given and yield one number."""
    owners = [model.get_submodule(name) for name in parts]
    before = [vars(owner).get("forward") for owner in owners]
    try:
        for owner in owners:
            # Into the instance's dictionary: it hides the class's forward,
            # hooks still run, and deleting it restores the class's.
            vars(owner)["forward"] = _read
        yield
    finally:
        for owner, forward in zip(owners, before, strict=True):
            del vars(owner)["forward"]
            if forward is not None:
                vars(owner)["forward"] = forward


def _read(*arguments: Any, **named: Any) -> Tensor:
    # Something has to read the inputs, or the trace would not
    # show what is fed to the part, and nothing would be pinned.
    given = [leaf for leaf in pytree.tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
    return torch.stack([leaf.sum() for leaf in given]).sum() if given else torch.zeros(())


def _cause(error: UserError) -> str:
    """The first line of what the network's own code raised, with the kind of error."""
    cause = error.__cause__ or error
    reason = next(iter(str(cause).strip().splitlines()), "").rstrip(".")
    return f"{type(cause).__name__}: {reason}" if reason else type(cause).__name__


SWITCHES = frozenset({"train", "dropout", "dropout_p"})
"""Arguments of layers that switch dropout and nothing else; a batch norm's is named otherwise."""
DROPOUTS = frozenset(
    f"{kind}dropout{end}" for kind in ("", "alpha_", "feature_", "feature_alpha_") for end in ("", "_")
)


def alike(one: Trace, other: Trace) -> bool:
    """Whether two traces have the same operations on the same tensors."""
    if len(one.operations) != len(other.operations) or one.failed or other.failed:
        return False
    known: dict[Node, Node] = {}
    return (
        all(_match(a, b, known) for a, b in zip(one.operations, other.operations, strict=True))
        and [known.get(node) for node in one.results] == other.results
        and all(_same_source(a, b, one, other) for a, b in known.items() if a.op == "placeholder")
    )


def _match(one: Node, other: Node, known: dict[Node, Node]) -> bool:
    known[one] = other
    if one.target != other.target or call_of(one) != call_of(other) or shape_of(one) != shape_of(other):
        return False
    left, right = bound_arguments(one), bound_arguments(other)
    left_out = {*SWITCHES, "p"} if operation_name(one) in DROPOUTS else SWITCHES
    return left.keys() == right.keys() and all(
        name in left_out or _same(left[name], right[name], known) for name in left
    )


def _same(one: Any, other: Any, known: dict[Node, Node]) -> bool:
    if isinstance(one, Node):
        return isinstance(other, Node) and known.setdefault(one, other) is other
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b, known) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)


def _same_source(one: Node, other: Node, traces: Trace, others: Trace) -> bool:
    """The same parameter, or a constant of the same value, or an input in the same place."""
    if one in traces.tensor_names or other in others.tensor_names:
        return traces.tensor_names.get(one) == others.tensor_names.get(other)
    if one in traces.constants or other in others.constants:
        value, given = one.meta.get("value"), other.meta.get("value")
        return isinstance(value, Tensor) and isinstance(given, Tensor) and torch.equal(value, given)
    return _inputs(traces).index(one) == _inputs(others).index(other)


def _inputs(trace: Trace) -> list[Node]:
    return [node for node in trace.placeholders if node not in trace.tensor_names and node not in trace.constants]

"""What each layer of a network reads, found in its trace.

Whether a layer's input was quantized where it was made, how often a module is called.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import Node

from compress.errors import UserError
from compress.graph.calls import calls_of
from compress.graph.own_code import asks_for_training, modes_without_gradients
from compress.graph.trace import operation_name, trace_model
from compress.quantization.placement.clips import Clip, clips_behind
from compress.quantization.placement.norm_behind import without_norm
from compress.quantization.placement.plain_forward import is_derived
from compress.quantization.placement.sharing import is_layer, is_weighted, owning
from compress.quantization.placement.signs import PASSING, Signs, plain_name, zero_pad
from compress.selectors import canonical_modules


@dataclass(frozen=True)
class Reading:
    """The input of a layer.

    Attributes:
        quantized: it was quantized where it was made, by one activation module.
        left_float: it comes from an activation that is set to stay float.
        signed: it may be negative.
        is_input: it is the network's input, or computed from it without any layer.
        made_by: the operation that made it, for messages.
    """

    quantized: bool
    left_float: bool
    signed: bool
    is_input: bool
    made_by: str


@dataclass(frozen=True)
class Graph:
    """What the trace says about modules, by canonical name.

    Attributes:
        readings: layer -> what each of its calls reads.
        norms: convolution or linear layer -> the BatchNorm that may be folded into it (sharing.py).
        own_norms: those among them of a class derived from BatchNorm, whose numbers alone can be folded.
        calls: module -> number of its calls.
        useful: activation modules whose output reaches some layer.
        by_readers: those that are rounded where they are read, since one of the layers reads other values too.
        order: layers in the order of their first call.
        outside: layer -> the module that reads its weight past it.
        derived: layers of a class derived from torch's that may be quantized, for they only pad (plain_forward.py).
        unnormed: layers that reach another layer, or the network's output, without a normalisation (norm_behind.py).
        open_results: layer whose result nothing rounds before it is used -> the BatchNorm behind it, or None.
        last: those of them whose result alone makes the network's output.
        clips: layer called once -> the ReLU or clip that alone reads its result.
        notes: what could not be found out, a sentence each.
    """

    readings: dict[str, list[Reading]]
    norms: dict[str, str] = field(default_factory=dict)
    own_norms: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    useful: set[str] = field(default_factory=set)
    by_readers: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)
    unnormed: list[str] = field(default_factory=list)
    open_results: dict[str, str | None] = field(default_factory=dict)
    last: set[str] = field(default_factory=set)
    clips: dict[str, Clip] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_graph(
    model: nn.Module,
    example_inputs: Any,
    layers: Collection[str],
    activations: Collection[str],
    float_activations: Collection[str],
    trains: bool = True,
) -> Graph:
    """Trace a network and see what its layers read.

    Args:
        model: the float network; wrappers are taken off by the caller.
        example_inputs: a tensor or the tuple of positional arguments.
        layers: names of the layers whose inputs are asked for.
        activations: names of the activation modules that will be quantized.
        float_activations: names of those that are set to stay float.
        trains: whether what the network computes in training mode matters too.

    Raises:
        UserError: the model cannot be traced.
    """
    modules = canonical_modules(model)
    trace = trace_model(model, example_inputs)
    owned = owning(model, trace)
    unnormed = without_norm(trace, owned.owners, layers)
    graph = Graph({}, dict(owned.norms), set(owned.own_norms), outside=dict(owned.outside), unnormed=unnormed)
    graph.derived.update(owned.derived)
    for call in calls_of(example_inputs)[1:]:
        _compare(graph, model, call, training=False)
    for mode in modes_without_gradients(model):
        with mode():
            _compare(graph, model, example_inputs, training=False)
    if trains and asks_for_training(model):
        _compare(graph, model, example_inputs, training=True)
    # A layer whose weight is read past it stays float, and so does not count as one that rounds its input.
    quantized = {name for name in layers if name not in graph.outside}
    quantized -= {name for name in layers if is_derived(modules[name])} - graph.derived
    walk = _Walk(owned.owners, Signs(trace), quantized, set(activations), set(float_activations))
    walk.own_norms = owned.own_norms
    calls = [(node, owned.owners[node]) for node in trace.operations]
    graph.by_readers.update(walk.leave_to_readers(node for node, _ in calls))
    for node, name in calls:
        if is_layer(node) and name in walk.layers:
            walk.note_result(graph, node, name)
        if is_weighted(node) and name in walk.layers:
            graph.readings.setdefault(name, []).append(walk.reading(node))
        if name in walk.activations and walk.reaches_layer(node):
            graph.useful.add(name)
        if is_weighted(node) or _embeds(node) or name in walk.activations:
            graph.calls[name] += 1
    ordered = [name for node, name in calls if name in walk.layers and (is_weighted(node) or _embeds(node))]
    graph.order.extend(dict.fromkeys(ordered))
    layer_calls = {name: node for node, name in calls if is_layer(node) and graph.calls[name] == 1}
    graph.clips.update(clips_behind(layer_calls, graph.norms, owned.owners))
    return graph


def _compare(graph: Graph, model: nn.Module, example_inputs: Any, training: bool) -> None:
    """Drops the foldings that another call or mode does not share, and adds who reads weights only there."""
    try:
        owned = owning(model, trace_model(model, example_inputs, training))
    except UserError as e:
        graph.derived.clear()
        if graph.norms:
            graph.norms.clear()
            graph.notes.append(f"no BatchNorm is folded, because not all that the network computes is known: {e}")
        return
    graph.outside.update(owned.outside)
    graph.derived.difference_update(owned.doing_more)
    for name in [name for name, norm in graph.norms.items() if owned.norms.get(name) != norm]:
        del graph.norms[name]


MERGED = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}  # kernels compute these along with their layer


def _gives_integers(call: Node) -> bool:
    """Whether runtimes have a kernel; of a linear layer they have one for matrices (else its bias is added later)."""
    return plain_name(call) != "linear" or call.meta["val"].dim() == 2 or len(call.args) < 3


class _Walk:
    """Walks back from what a layer reads to what made it."""

    def __init__(
        self, owners: dict[Node, str], signs: Signs, layers: set[str], activations: set[str], left: set[str]
    ) -> None:
        self.owners, self.signs = owners, signs
        self.layers, self.activations, self.left = layers, activations, left
        self.own_norms: set[str] = set()

    def reading(self, call: Node) -> Reading:
        operand: Any = call.args[0]
        *passed, source = _passed(operand)
        name = self.owners[source]
        changed = [write for node in (*passed, source) for write in self.signs.written_since(node, call)]
        made = itertools.chain.from_iterable(_ancestors(node) for node in (source, *changed))
        return Reading(
            quantized=name in self.activations and not changed,
            left_float=name in self.left,
            signed=not self.signs.non_negative(operand, call),
            is_input=not any(is_weighted(node) or _embeds(node) for node in made),
            made_by=operation_name(source) if source.op == "call_function" else "the network's input",
        )

    def leave_to_readers(self, nodes: Iterable[Node]) -> set[str]:
        """Takes out of `activations`, and returns, those that a layer reads beside what is not quantized yet.

        Such a layer (called twice, once with the network's input) rounds all that it reads. What is rounded already
        would be rounded again, to another grid, and onnxruntime makes one rounding of the two.
        """
        found: dict[str, list[Node]] = {}
        for node in nodes:
            if is_weighted(node) and self.owners[node] in self.layers:
                found.setdefault(self.owners[node], []).append(node)
        taken: set[str] = set()
        # Taking one activation out can make the input of another layer mixed, hence until nothing changes.
        while True:
            mixed: set[str] = set()
            for calls in (each for each in found.values() if len(each) > 1):
                readings = [self.reading(call) for call in calls]
                if not any(each.left_float for each in readings) and not all(each.quantized for each in readings):
                    operands: list[Any] = [call.args[0] for call in calls]
                    sources = (self.owners[_passed(each)[-1]] for each in operands)
                    mixed |= {name for name, each in zip(sources, readings, strict=True) if each.quantized}
            if not mixed:
                return taken
            self.activations -= mixed
            taken |= mixed

    def note_result(self, graph: Graph, call: Node, name: str) -> None:
        """Notes a layer whose result is used before it is rounded, where a kernel could give integers."""
        result, norm, users = call, graph.norms.get(name), list(call.users)
        if norm is not None and len(users) == 1 and self.owners.get(users[0]) == norm:
            result = users[0]
        if self._rounded(result) or not _gives_integers(call) or norm in self.own_norms:
            return
        graph.open_results[name] = norm
        if self._ends(result):
            graph.last.add(name)

    def _ends(self, node: Node) -> bool:
        """Whether a result becomes the network's output, or part of it, with nothing else computed into it."""
        for user in node.users:
            # A single operand (a softmax, a view) adds nothing; two
            # (a residual) make more of it than this layer's result.
            tensors = [each for each in user.all_input_nodes if each.meta.get("val") is not None]
            if user.op != "output" and (is_weighted(user) or len(tensors) > 1 or not self._ends(user)):
                return False
        return True

    def _rounded(self, node: Node) -> bool:
        """Whether all that reads a result rounds it first; a kernel takes a ReLU or a clip in between along."""
        users = list(node.users)
        if len(users) != 1:
            return False
        name = plain_name(users[0]) if users[0].op == "call_function" else ""
        if name in MERGED:
            return self.owners[users[0]] in self.activations or self._rounded(users[0])
        if is_weighted(users[0]):
            return self.owners[users[0]] in self.layers
        return name in PASSING and self._rounded(users[0])

    def reaches_layer(self, node: Node) -> bool:
        seen, todo = {node}, [node]
        while todo:
            for user in todo.pop().users:
                if is_weighted(user) and self.owners[user] in self.layers:
                    return True
                if user not in seen:
                    seen.add(user)
                    todo.append(user)
        return False


def _passed(operand: Node) -> list[Node]:
    """The operations whose results hold an operand's values, back to the one that made them, which is the last."""
    found = [operand]
    while found[-1].op == "call_function" and (plain_name(found[-1]) in PASSING or zero_pad(found[-1])):
        source = found[-1].args[0]
        if not isinstance(source, Node):
            break
        found.append(source)
    return found


def _ancestors(node: Node) -> Iterator[Node]:
    seen, todo = {node}, [node]
    while todo:
        current = todo.pop()
        yield current
        for each in current.all_input_nodes:
            if each not in seen:
                seen.add(each)
                todo.append(each)


def _embeds(node: Node) -> bool:
    return node.op == "call_function" and operation_name(node) == "embedding"

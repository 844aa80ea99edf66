"""Units carried through a trace: each dimension of each tensor knows which unit every position belongs to.

`Coupling` walks the operations and asks `rules/table.py` for each; values.py says what is known of one tensor. An
operation without a rule is a boundary: whatever reaches it is pinned.

Worked example, `conv2(relu(conv1(x)) + shortcut(x))` with two channels in the middle:

    conv1.weight     dim 0: units [0 1]     dim 1: pinned (network input)
    shortcut.weight  dim 0: units [2 3]     dim 1: pinned (network input)
    conv1(x)         dim 1: units [0 1]
    sum              dim 1: units [0 1], and the addition ties 0~2, 1~3
    conv2.weight     dim 1: units [4 5]     reading the sum ties 0~4, 1~5

Two units {0,2,4} and {1,3,5} are left. Removing the second takes row 1 of conv1 and shortcut and column 1 of
conv2. Concatenation, slicing, views and shuffles only move ids about: a concatenation of the two tensors has
units [0 1 2 3], and a flatten to (N, 2*H*W) has [0 0 .. 0 1 1 .. 1].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from compress.graph.aliases import Aliases, written
from compress.graph.calls import how_to_declare
from compress.graph.pointwise import is_pointwise
from compress.graph.regions import LayerCall, layer_calls
from compress.graph.sizes.numbers import Cut
from compress.graph.sizes.origins import dims_read, serial_of
from compress.graph.sizes.settable import settable
from compress.graph.trace import Trace, call_of, has_unknown_size, module_of, operation_name, shape_of, source_of
from compress.graph.units import Ids, Units
from compress.graph.values import Heads, Result, Value, bound_arguments, choice_key, fixed_result

COUNTING = (
    *(nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.PReLU),
    *(nn.Bilinear, nn.Embedding, nn.RNNBase, nn.RNNCellBase),
)
"""Layers that keep the numbers of their channels beside their weights."""
Rule = Callable[["Coupling", Node, dict[str, Any]], Result]
Choices = dict[tuple[Any, ...], int]


class Coupling:
    """One walk over the traces of a model.

    Args:
        model: gives the sizes of parameters and buffers and the modules that own them.
        rules: operation name -> rule; an operation that is not in it but is tagged point-wise by torch has
            the rule under the name `pointwise`, any other the rule under `boundary`.
        choices: where an operation can keep its shape in several ways (which dimension of a view gives
            way), the way to take instead of the first; filled by the trial of them.
        distrusted: modules whose code holds sizes as literals, found by the same probe: their views pin.
        allow_inexact: tie channels through norms over the channel dimension instead of pinning them.
        heads: how attention is cut; see `Heads`.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: dict[str, Rule],
        choices: Choices | None = None,
        distrusted: Collection[str] = (),
        allow_inexact: bool = False,
        heads: Heads | None = None,
    ) -> None:
        self.units = Units()
        self.rules = rules
        self.choices = choices or {}
        self.distrusted = distrusted
        self.allow_inexact = allow_inexact
        self.heads = heads or Heads()
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.tensors: dict[str, Value] = {}  # of parameters, buffers and numbers that count channels
        self.block_modules: set[str] = set()
        self.computed: dict[str, tuple[int, ...]] = {}  # ChannelGraph explains this and what else it has of these names
        self.numbers: set[str] = set()  # those of `tensors` that modules keep as numbers
        self.asked: dict[tuple[Any, ...], int] = {}
        self.asked_for: dict[tuple[Any, ...], list[Ids]] = {}
        self.risky: set[str] = set()
        self.has_heads = False  # whether a second walk, within the heads, finds anything
        self.within: dict[str, list[Ids]] = {}  # module -> the positions within its heads
        self.reads: set[tuple[str, int]] = set()
        self.cuts: list[Cut] = []
        self.padded: dict[str, int] = {}
        self.calls: dict[Node, LayerCall] = {}  # from here on: of the trace under way
        self._values: dict[Node, Result] = {}
        self._sized: dict[str | None, Node] = {}  # serial (sizes/origins.py) -> node
        self._node: Node | None = None
        self._trace: Trace | None = None

    def walk(self, trace: Trace) -> None:
        """Carry the units through one trace; a second one (training mode) adds its ties to the first's."""
        self._trace = trace
        self._values = {node: Value.fixed(shape_of(node)) for node in trace.placeholders}
        aliases = Aliases([*trace.placeholders, *trace.operations])
        self._sized = {serial_of(node): node for node in (*trace.placeholders, *trace.operations)}
        self.calls = layer_calls(trace.operations, module_of, call_of, trace.sources)
        for node in trace.operations:
            self._node = node
            known = module_of(node) not in trace.failed
            result = self._rule(node)(self, node, bound_arguments(node)) if known else self._unknown(node, trace)
            assert not isinstance(result, Value) or result.shape == shape_of(node), (node.name, result.shape)
            self._values[node] = result
            self._check_padded(node, result)
            if isinstance(result, Value) and any(result.units[dim] is not None for dim in dims_read(node)):
                self.risky.add(module_of(node))  # the code may compute with how many channels there are
            for argument in written(node):
                self._spread_write(result, aliases.of(argument))
        self._node = None
        for node in trace.placeholders:  # likewise of a parameter or buffer
            if any(self.read(node).units[dim] is not None for dim in dims_read(node)):
                self.risky.add((self.name_of(node) or "").rpartition(".")[0])
        for node in trace.results:
            for value in self.values(node):
                self.pin_all(value, "network output")

    def _unknown(self, node: Node, trace: Trace) -> Result:
        """A part that failed when it was traced: the channels that it reads stay as many as it expects."""
        part = module_of(node)
        failed = [each for each, cause in trace.failed.items() if cause]
        reason = (
            f"{part} runs in training mode only and failed there on the example inputs ({trace.failed[part]}), so that "
            f"what it needs is not known: give inputs on which it runs, or if nobody runs it, "
            f"{how_to_declare(failed)}"
        )
        for value in self.values(list(node.all_input_nodes)) if trace.failed[part] else ():
            for ids in value.units:
                self.units.pin(ids, reason)
        return fixed_result(node)

    def _spread_write(self, result: Result, aliases: Sequence[Node]) -> None:
        """What is not zero in a tensor after a write is not zero in any other view of its memory."""
        lost = [
            self.units.roots(ids)
            for value in (result if isinstance(result, list) else [result])
            for ids, zero in zip(value.units, value.zero, strict=True)
            if ids is not None and not zero
        ]
        if not lost:
            return
        gone = np.unique(np.concatenate([ids.ravel() for ids in lost]))
        for node in aliases:
            name = self.name_of(node)
            if name is not None:
                self.tensors[name] = self._cleared(self.tensor(name, node), gone)
            elif node in self._values:
                known = self._values[node]
                cleared = [self._cleared(value, gone) for value in self.values(node)]
                self._values[node] = cleared if isinstance(known, list) else cleared[0]

    def _cleared(self, value: Value, gone: Ids) -> Value:
        """The same value without the zeros of units that are `gone`."""
        zero = tuple(
            flag and (ids is None or not np.isin(self.units.roots(ids), gone).any())
            for ids, flag in zip(value.units, value.zero, strict=True)
        )
        return replace(value, zero=zero)

    def read(self, argument: Any) -> Value:
        """The tensor behind an argument; a number, or None, is a fixed tensor without dimensions."""
        found = self.values(argument)
        return found[0] if found else Value.fixed(())

    def values(self, argument: Any) -> list[Value]:
        """All tensors behind an argument: of a node with several results, of a list of nodes."""
        if isinstance(argument, list | tuple):
            return [value for item in argument for value in self.values(item)]
        if not isinstance(argument, Node) or argument.op == "get_attr":  # a number; a sub-graph of `torch.cond`
            return []
        name = self.name_of(argument)
        found = self.tensor(name, argument) if name is not None else self._values[argument]
        return found if isinstance(found, list) else [found]

    def name_of(self, argument: Any) -> str | None:
        """Full name of the parameter or buffer that the argument is, else None."""
        assert self._trace is not None
        return self._trace.tensor_names.get(argument) if isinstance(argument, Node) else None

    def tensor(self, name: str, node: Node) -> Value:
        """The value of a parameter or buffer; when it is first read, each position is a unit of its own."""
        if name not in self.tensors:
            shape, kernel = shape_of(node), self._kernel(name, shape_of(node))
            # A dimension of size 1 has no units: its only channel can never go, and it may be broadcast.
            units = {dim: self.units.fresh(size) for dim, size in enumerate(shape) if size > 1 and dim not in kernel}
            masked = name in self.parameters  # no mask covers a buffer, such as a running mean
            self.tensors[name] = Value.of(shape, dict(units), dict.fromkeys(range(len(shape)), masked))
        return self.tensors[name]

    def _kernel(self, name: str, shape: tuple[int, ...]) -> range:
        """Kernel dimensions of a convolution's weight, or of what the weight is computed from: they stay."""
        while name:
            name = name.rpartition(".")[0]  # upwards from `conv.parametrizations.weight.original`
            module = self.modules.get(name)
            if isinstance(module, nn.modules.conv._ConvNd):
                count = len(module.kernel_size)
                found = len(shape) > count + 1 and shape[-count:] == tuple(module.kernel_size)
                return range(len(shape) - count, len(shape)) if found else range(0)
        return range(0)

    def is_weight(self, node: Node) -> bool:
        """Whether a tensor is made of nothing but parameters, buffers and constants."""
        assert self._trace is not None
        return node in self._trace.sources

    def weight(self, argument: Any, name: str) -> Value:
        """A weight that the calling module counts its channels by, although it may be no tensor of that module.

        Such as one computed from `weight_orig` and `weight_mask`, or from `parametrizations.weight.original`.
        """
        value, caller = self.read(argument), self.caller()
        if isinstance(caller, COUNTING) and name not in caller._parameters and name not in caller._buffers:
            place = f"{self.first_name(caller)}.{name}".lstrip(".")
            self.computed[place] = value.shape
            known = self.tensors.setdefault(place, value)
            for one, other in zip(known.units, value.units, strict=known.shape == value.shape):
                if known is not value and (one is not None or other is not None):
                    self.join(one, other)
        return value

    def couple_unread(self, unread: Collection[str]) -> None:
        """A bias that no call reads, of a layer whose weight is read by a function, goes along with the weight."""
        for name in unread:
            place = name.rpartition(".")[0]
            module, weight = self.modules.get(place), self.tensors.get(f"{place}.weight")
            if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or name in self.tensors or weight is None:
                continue
            written = 1 if getattr(module, "transposed", False) else 0  # (in, out / groups, ..); else (out, in, ..)
            if name.endswith(".bias") and weight.shape[written] == self.parameters[name].numel():
                self.tensors[name] = Value.of((weight.shape[written],), {0: weight.units[written]}, {0: True})

    def first_name(self, module: nn.Module) -> str:
        """The first name that a module is registered under."""
        return next(name for name, each in self.modules.items() if each is module)

    def attribute(self, name: str, ids: Ids) -> None:
        """A number of the calling module that counts these channels, although no tensor of it does."""
        caller = self.caller()
        if caller is None or not settable(caller, name):
            return  # if the code uses it, a trial shows that
        place = f"{module_of(self.node)}.{name}".lstrip(".")
        if place in self.tensors:
            self.join(self.tensors[place].units[0], ids)
        else:
            self.tensors[place] = Value.of((len(ids),), {0: ids}, {})

    def parameter(self, name: str) -> Value | None:
        """A parameter by any of its names; None for one that no call under way reads."""
        assert self._trace is not None
        own = self.parameters[name]
        nodes = (node for node, first in self._trace.tensor_names.items() if self.parameters.get(first) is own)
        return next((self.read(node) for node in nodes if node.users), None)

    def sized(self, serial: str) -> Value | None:
        """The tensor whose size some code has read, as far as the walk has come; None for one of several results."""
        node = self._sized.get(serial)
        if node is None or (self.name_of(node) is None and node not in self._values):
            return None
        found = self.values(node)
        return found[0] if len(found) == 1 else None

    @property
    def node(self) -> Node:
        """The current call."""
        assert self._node is not None
        return self._node

    def caller(self) -> nn.Module | None:
        """The module that made the current call."""
        assert self._node is not None
        return self.modules.get(module_of(self._node))

    def owner(self, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> nn.Module | None:
        """The module that made the current call if it is of that kind: its attributes can follow a change."""
        module = self.caller()
        return module if isinstance(module, kinds) else None

    def choose(self, options: Sequence[Any], ids: Ids) -> Any | None:
        """The first of several ways to keep the shape that `ids` are in, or a later one where a trial failed."""
        assert self._node is not None
        if self.explicit():
            return options[0]
        key = choice_key(self._node)
        self.asked[key] = len(options)  # trials read this after the walk, and walk again with other `choices`
        self.doubt(ids)
        chosen = self.choices.get(key, 0)
        return options[chosen] if chosen < len(options) else None

    def doubt(self, ids: Ids) -> None:
        """The current call's sizes may be literals in the code of its module: worth a trial."""
        assert self._node is not None
        if self.explicit():
            return
        self.risky.add(module_of(self._node))
        key = choice_key(self._node)
        self.asked.setdefault(key, 0)  # no other way, but worth a name
        self.asked_for.setdefault(key, []).append(ids)
        if module_of(self._node) in self.distrusted:
            self.pin(ids, f"a trial showed that its size is fixed in the code, {key[2]} to {key[3]}")

    def explicit(self) -> bool:
        """Whether the calling module takes the sizes of its heads from numbers that follow a removal."""
        assert self._node is not None
        return module_of(self._node) in self.heads.explicit

    def moved_on(self) -> bool:
        """Whether a trial has shown that the current call does not keep its shape in the first way."""
        assert self._node is not None
        return self.choices.get(choice_key(self._node), 0) > 0

    def cut_within(self, ids: Ids) -> None:
        """These are the positions within the heads of the current call."""
        assert self._node is not None
        module = module_of(self._node)
        self.within.setdefault(module, []).append(ids)
        if module in self.heads.rigid:
            self.pin(ids, "a trial showed that the size of a head is fixed in the code")

    def reads_along(self, argument: Any, dim: int) -> None:
        """Note that this dimension of a weight meets the input channels, not the output channels."""
        name = self.name_of(source_of(argument))
        if name is not None:
            self.reads.add((name, dim))
            return
        ids = self.read(argument).units[dim]
        if ids is None:
            return
        for place in self._made_of(argument):  # a computed weight may be permuted: its units show the dimension
            own = self.tensors[place[0]].units[place[1]]
            if own is not None and np.array_equal(self.units.roots(own), self.units.roots(ids)):
                self.reads.add(place)

    def _made_of(self, argument: Any) -> list[tuple[str, int]]:
        """Every dimension of the parameters that a weight is computed from."""
        assert self._trace is not None
        names = [self._trace.tensor_names[node] for node in self._trace.sources.get(argument, ())]
        return [(name, dim) for name in names if name in self.tensors for dim in range(len(self.tensors[name].shape))]

    def pin(self, ids: Ids | None, reason: str) -> None:
        """Pin units, naming the module and operation at work."""
        if self._node is not None and reason:
            reason = f"{reason} ({operation_name(self._node)} in {module_of(self._node) or 'the model'})"
        self.units.pin(ids, reason)

    def pin_inexact(self, ids: Ids | None, reason: str, can_go: bool = True) -> None:
        """Pin units that may go only where inexactness is allowed, since what is computed over them changes."""
        if not can_go:
            self.pin(ids, reason)
        elif not self.allow_inexact:
            self.pin(ids, f"{reason}, {INEXACT}")

    def _check_padded(self, node: Node, result: Result) -> None:
        """What a padded layer gives has the channels where those that it reads are."""
        call = self.calls.get(node)
        if call is None or call.result is not node or call.module not in self.padded:
            return
        dim, own = self.padded[call.module], self.tensors[f"{call.module}.{FULL_WIDTH}"].units[0]
        assert own is not None
        given = result.units[dim] if isinstance(result, Value) else None
        if given is None or not np.array_equal(self.units.roots(given), self.units.roots(own)):
            self.pin(own, "norm over the channel dimension, whose result has them elsewhere")

    def pin_all(self, value: Value, reason: str) -> Value:
        """Pin every dimension of a tensor; gives back a fixed tensor of its shape."""
        for ids in value.units:
            self.pin(ids, reason)
        return Value.fixed(value.shape)

    def join(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Two dimensions of one size that must stay alike: tie them, or pin the one that meets a fixed one."""
        if left is not None and right is not None:
            self.units.tie(left, right)
            return left
        self.pin(left if left is not None else right, "coupled to a tensor of fixed size, such as a network input")
        return None

    def _rule(self, node: Node) -> Rule:
        name = operation_name(node)
        if has_unknown_size(node):
            return self.rules["boundary"]
        if name in self.rules:
            return self.rules[name]
        return self.rules["pointwise" if is_pointwise(node) else "boundary"]


FULL_WIDTH = "full_width"
"""A number of a padded layer: how many channels there were."""
INEXACT = (
    "which changes with each that goes: `allow_inexact: true` of FilterRemover, in Python `thin(..., "
    "allow_inexact=True)`, removes all the same and measures the difference"
)

"""Which layers have their weights for themselves, and the BatchNorm behind them.

`owning`, the one place that says which weight may be exchanged for a quantized one and which BatchNorm may be folded.

A quantized layer quantizes in its own forward. Whoever reads `conv.weight` from elsewhere (`F.conv2d(x,
conv.weight)`, `F.linear(x, embedding.weight)`) would go past it, so such a layer stays float. A BatchNorm may be
folded into a layer only where the layer is called once, its weight and bias are read by that call alone, only the
BatchNorm reads its output, the BatchNorm is called once, and it normalises the layer's output channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import Node

from compress.graph.regions import has_subgraph
from compress.graph.trace import Trace, call_of, module_of, operation_name, shape_of
from compress.quantization.modules.layers import bias_names, channel_axis, quantized_class, weight_names
from compress.quantization.modules.norms import NORMS
from compress.quantization.placement.plain_forward import computing, is_derived
from compress.quantization.placement.signs import plain_name
from compress.selectors import canonical, canonical_modules, first_names

WEIGHTED = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
NO_VALUES = {  # of these operands only shape, type or device are read
    "type_as": 1, "to": 1, "view_as": 1, "expand_as": 1, "reshape_as": 1, "zeros_like": 0, "ones_like": 0,
    "empty_like": 0, "full_like": 0, "rand_like": 0, "randn_like": 0, "new_zeros": 0, "new_ones": 0, "new_empty": 0,
    "new_full": 0, "_assert_tensor_metadata": 0,
}  # fmt: skip
OWN = ("weight", "bias")


@dataclass(frozen=True)
class Owning:
    """What the layers of a traced network have for themselves; names are canonical and the first of several.

    Attributes:
        owners: operation -> the module whose forward makes it.
        outside: layer -> the module that reads its weight or bias past it.
        alone: layers that are called once, with a weight and a bias that nothing else reads.
        norms: layer -> the BatchNorm that may be folded into it.
        derived: layers of a class derived from torch's that are called and only pad (plain_forward.py).
        doing_more: those of them that do more.
        own_norms: those of a class derived from BatchNorm: their numbers may be folded, the module stays.
    """

    owners: dict[Node, str]
    outside: dict[str, str] = field(default_factory=dict)
    alone: dict[str, Node] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    own_norms: set[str] = field(default_factory=set)
    derived: set[str] = field(default_factory=set)
    doing_more: set[str] = field(default_factory=set)


def owning(model: nn.Module, trace: Trace) -> Owning:
    """Reads a trace of a float network."""
    names = first_names(model)
    owners = {n: names.get(canonical(module_of(n), model), "") for n in [*trace.placeholders, *trace.operations]}
    found = Owning(owners)
    modules = canonical_modules(model)
    tensors = _tensors(model, trace)
    reads = _reads(tensors)
    called, more = computing(modules, owners, tensors, trace)
    found.derived.update(called - more)
    found.doing_more.update(more)
    layers = {n: each for n, each in modules.items() if quantized_class(each) is not None}
    layers = {n: each for n, each in layers.items() if n in found.derived or not is_derived(each)}
    found.outside.update(_outside(layers, reads, owners))
    calls = Counter(owners[node] for node in trace.operations if is_layer(node))
    for node in trace.operations:
        name = owners[node]
        if (
            is_layer(node)
            and calls[name] == 1
            and has_weight(modules[name])
            and _only_reader(modules[name], node, reads)
        ):
            found.alone[name] = node
    normings = Counter(owners[node] for node in trace.operations if operation_name(node) == "batch_norm")
    for name, node in found.alone.items():
        norm = _norm_behind(node)
        if norm is None or normings[owners[norm]] != 1 or not _fits(modules[name], node, modules[owners[norm]]):
            continue
        if _only_reader(modules[owners[norm]], norm, reads, (*OWN, "running_mean", "running_var")):
            found.norms[name] = owners[norm]
            if type(modules[owners[norm]]) not in NORMS:
                found.own_norms.add(owners[norm])
    return found


def is_layer(node: Node) -> bool:
    """Whether an operation is a convolution or a matrix product with a weight."""
    return node.op == "call_function" and plain_name(node) in WEIGHTED


def is_weighted(node: Node) -> bool:
    """Whether an operation is a layer's, recurrent ones among them."""
    return is_layer(node) or (node.op == "call_function" and operation_name(node) in RECURRENT)


def has_weight(module: nn.Module) -> bool:
    """Whether a module is a layer with a quantized form whose weight is its own parameter, not computed from others."""
    own = weight_names(module) if quantized_class(module) is not None else ()
    return bool(own) and all(module._parameters.get(name) is not None for name in own)


def output_channel_dim(node: Node) -> int:
    """The dimension of a convolution's or linear layer's output that its weight's output channels lie along."""
    rank = len(shape_of(node))
    return rank - 1 if plain_name(node) == "linear" else rank + 1 - len(shape_of(node.args[1]))


def input_channel_dim(node: Node) -> int:
    """The dimension of a convolution's or linear layer's input that its weight's input channels lie along."""
    rank = len(shape_of(node.args[0]))
    return rank - 1 if plain_name(node) == "linear" else rank + 1 - len(shape_of(node.args[1]))


def _tensors(model: nn.Module, trace: Trace) -> dict[Node, Any]:
    """Placeholder -> the parameter or buffer that it stands for."""
    tensors: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return {source: tensors[name] for source, name in {**trace.hidden_names, **trace.tensor_names}.items()}


def _reads(tensors: Mapping[Node, Any]) -> dict[int, list[Node]]:
    """Identity of each parameter and buffer -> the operations that read its values."""
    found: dict[int, list[Node]] = {}
    for source, tensor in tensors.items():
        users = [user for user in source.users if _reads_values(user, source)]
        found.setdefault(id(tensor), []).extend(users)
    return found


def _reads_values(user: Node, source: Node) -> bool:
    """Whether an operation reads more of an operand than its shape, type or device; the network may return it too."""
    place = NO_VALUES.get(plain_name(user)) if user.op == "call_function" else None
    return place is None or any(each is source for i, each in enumerate(user.args) if i != place)


def _outside(
    layers: Mapping[str, nn.Module], reads: Mapping[int, list[Node]], owners: Mapping[Node, str]
) -> Iterator[tuple[str, str]]:
    """Each layer whose weight or bias is read by a module that does not hold it, and that module."""
    holders: dict[int, list[str]] = {}
    for name, module in layers.items():
        for own in (*weight_names(module), *bias_names(module)):
            tensor = module._parameters.get(own)
            if tensor is not None:
                holders.setdefault(id(tensor), []).append(name)
    for key, names in holders.items():
        readers = [node for node in reads.get(key, []) if not has_subgraph(node)]  # a branch's layer is inside of it
        calls = Counter((owners.get(node, ""), call_of(node)) for node in readers)
        for (reader, call), count in calls.items():
            if reader not in names:
                yield from ((name, reader) for name in names)
            elif call and count > 1:  # the layer itself reads a tensor once a call
                yield from ((name, f"a hook of {reader}") for name in names)


def _only_reader(module: Any, node: Node, reads: Mapping[int, list[Node]], own: tuple[str, ...] = OWN) -> bool:
    """Whether a call reads the module's own tensors, and nothing else reads them."""
    tensors = [{**module._parameters, **module._buffers}.get(name) for name in own]
    known = [tensor for tensor in tensors if tensor is not None]
    return bool(known) and all(set(reads.get(id(tensor), [])) == {node} for tensor in known)


def _norm_behind(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and operation_name(users[0]) == "batch_norm" else None


def _fits(layer: Any, node: Node, norm: Any) -> bool:
    """Whether a BatchNorm has running statistics and normalises the layer's output channels, one for one."""
    return (
        isinstance(norm, tuple(NORMS))  # of a class of its own too: the operation is what is folded
        and getattr(norm, "running_var", None) is not None
        # BatchNorm normalises dimension 1, but a linear layer on (N, T, C) gives channels in dimension 2.
        and output_channel_dim(node) == 1
        # Groups of a transposed convolution (channel_axis 1) share
        # the weight's dimension 1, so that it has no row a channel.
        and getattr(layer, "groups", 1) * channel_axis(layer) <= 1
    )

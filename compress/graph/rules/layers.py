"""Rules of operations with weights: linear and matrix products, attention, recurrence.

Which dimension of which weight meets which dimension of the activation. Called through the table in `rules/table.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.rules.pointwise_and_reductions import aligned
from compress.graph.rules.shapes import boundary, permuted
from compress.graph.trace import module_of, operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, fixed_result


def linear(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x (.., I), weight (O, I), bias (O)."""
    x, weight, bias = c.read(a["input"]), c.weight(a["weight"], "weight"), c.read(a["bias"])
    c.reads_along(a["weight"], len(weight.shape) - 1)
    contract(c, x, len(x.shape) - 1, weight, len(weight.shape) - 1)
    shape = shape_of(node)
    if len(weight.shape) == 1:
        return Value.of(shape, dict(enumerate(x.units[:-1])), dict(enumerate(x.zero[:-1])))
    out = weight.units[0]
    if a["bias"] is not None and weight.shape[0] > 1:
        out = c.join(out, bias.units[0])
    last = len(shape) - 1
    zero = {k: x.zero[k] and a["bias"] is None for k in range(last)}
    zero[last] = weight.zero[0] and (a["bias"] is None or bias.zero[0])
    return Value.of(shape, {**dict(enumerate(x.units[:-1])), last: out}, zero)


def matmul(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(.., M, K) @ (.., K, N); K may shrink where one side is exactly zero in what goes."""
    left, right = (c.read(argument) for argument in list(a.values())[:2])
    shape = shape_of(node)
    # max: a vector on the right has one dimension, which is K.
    contract(c, left, len(left.shape) - 1, right, max(len(right.shape) - 2, 0))
    if len(left.shape) < 2 or len(right.shape) < 2:
        rest = right if len(left.shape) < 2 else left
        gone = max(len(right.shape) - 2, 0) if rest is right else len(left.shape) - 1
        return permuted(rest, [dim for dim in range(len(rest.shape)) if dim != gone])
    batch = aligned(c, [_leading(left), _leading(right)], shape[:-2], lambda flags: any(flags))
    units = {**dict(enumerate(batch.units)), len(shape) - 2: left.units[-2], len(shape) - 1: right.units[-1]}
    zero = {**dict(enumerate(batch.zero)), len(shape) - 2: left.zero[-2], len(shape) - 1: right.zero[-1]}
    return Value.of(shape, units, zero)


def _leading(x: Value) -> Value:
    return Value(x.shape[:-2], x.units[:-2], x.zero[:-2])


def contract(c: Coupling, left: Value, i: int, right: Value, j: int) -> None:
    """Sum over one dimension of both: 0 times anything is 0, so one clean side suffices."""
    ids = c.join(left.units[i], right.units[j])
    # Removing a term from a sum must not change it. 0 times anything
    # is 0 for finite numbers, which is all that is claimed.
    if ids is not None and not (left.zero[i] or right.zero[j]):
        c.pin(ids, NOT_ZERO_SUMMED)


NOT_ZERO_SUMMED = "summed over, and not zero where masked"


def addmm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """bias + a @ b."""
    product = matmul(c, node, {"left": node.args[1], "right": node.args[2]})
    assert isinstance(product, Value)
    return aligned(c, [c.read(node.args[0]), product], shape_of(node), all)


def attention(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """query (.., L, E), key (.., S, E), value (.., S, V), mask broadcast to (.., L, S)."""
    query, key, value = (c.read(a[name]) for name in ("query", "key", "value"))
    shape = shape_of(node)
    for ids in (query.units[-2], key.units[-2], value.units[-2]):
        c.pin(ids, "a position that attention looks at")
    # The default scale is 1 / sqrt(E), computed from the width:
    # with fewer channels the softmax gets sharper or flatter.
    if a.get("scale") is None:
        for ids in (query.units[-1], key.units[-1]):
            c.pin(ids, "the scale of the attention follows the width of the head")
    else:
        contract(c, query, len(query.shape) - 1, key, len(key.shape) - 1)
    if a.get("enable_gqa"):
        key, value = (_shared(part, query) for part in (key, value))
    batches = [_leading(part) for part in (query, key, value)]
    if a.get("attn_mask") is not None and len(c.read(a["attn_mask"]).shape) > 2:
        batches.append(_leading(c.read(a["attn_mask"])))
    batch = aligned(c, batches, shape[:-2], lambda flags: False)
    zero = {k: _zero_at(value, k, len(shape)) for k in range(len(shape) - 2)}
    zero[len(shape) - 1] = value.zero[-1]
    return Value.of(shape, {**dict(enumerate(batch.units)), len(shape) - 1: value.units[-1]}, zero)


def _shared(x: Value, query: Value) -> Value:
    """Keys or values for each head of the queries: a few heads in a row share one."""
    heads, shape = x.units[-3], (*x.shape[:-3], query.shape[-3], *x.shape[-2:])
    # enable_gqa has the semantics of repeat_interleave: query heads 0 1 2 3 of 4 read key heads 0 0 1 1 of 2.
    repeated = None if heads is None else np.repeat(heads, query.shape[-3] // x.shape[-3])
    return Value(shape, (*x.units[:-3], repeated, *x.units[-2:]), x.zero)


def _zero_at(x: Value, dim: int, count: int) -> bool:
    place = dim - (count - len(x.shape))
    return place >= 0 and x.units[place] is not None and x.zero[place]


def prelu(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """A slope for each channel goes with its channel; a single slope stays."""
    x, weight = c.read(node.args[0]), c.weight(node.args[1], "weight")
    units = list(x.units)
    if len(weight.shape) and weight.shape[0] > 1:
        units[1] = c.join(units[1], weight.units[0])
    return Value(x.shape, tuple(units), x.zero)


def embedding(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Rows are the vocabulary, which stays; columns are channels, and so may be what is looked up."""
    weight, chosen = c.weight(a["weight"], "weight"), c.read(a["indices"])
    c.pin(weight.units[0], "vocabulary")
    return Value.of(shape_of(node), {**dict(enumerate(chosen.units)), -1: weight.units[1]}, {-1: weight.zero[1]})


def recurrent(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """lstm, gru, rnn over whole sequences: hidden units go, the same ones of every layer and direction.

    weight_ih (G*H, I), weight_hh (G*H, H) and the biases (G*H) hold G gates; unit h is row h of every gate,
    column h of weight_hh and column h of whatever reads the output. `hidden_size` is one number for all
    layers and directions, hence the tie between them.
    """
    weights = c.values(a["params"])
    x = c.read(a["input"] if "input" in a else a["data"])
    owner, directions, per_cell = c.owner(nn.RNNBase), (2 if a["bidirectional"] else 1), 4 if a["has_biases"] else 2
    projected = bool(getattr(owner, "proj_size", 0))
    per_cell += projected
    if owner is None or len(weights) != per_cell * a["num_layers"] * directions:
        return boundary(c, node, a)
    if _not_zero(weights):
        return boundary(c, node, a, NOT_ZERO)
    for place, name in enumerate(("weight_ih_l0", "weight_hh_l0")):
        c.weight(a["params"][place], name)
    for k in range(0, len(weights), per_cell):
        c.reads_along(a["params"][k], 1)
        c.reads_along(a["params"][k + 1], 1)
    # torch's flat order: for each layer, for each direction: w_ih, w_hh[, b_ih, b_hh][, w_hr].
    cells = [weights[k : k + per_cell] for k in range(0, len(weights), per_cell)]
    state = cells[0][1].units[1]  # what comes out: the hidden units, or what they are projected to
    hidden = cells[0][4 if a["has_biases"] else 2].units[1] if projected else state
    reads = x.units[-1]
    for number, cell in enumerate(cells):
        if projected:
            c.join(hidden, cell[-1].units[1])
            c.join(state, cell[-1].units[0])
            c.reads_along(a["params"][number * per_cell + per_cell - 1], 1)
        _cell(c, cell[: len(cell) - projected], reads, hidden, state)
        if (number + 1) % directions == 0:
            # The next layer reads both directions side by side: forward's channels, then backward's.
            reads = None if state is None else np.tile(state, directions)
    start = a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
    shapes = [value.shape for value in fixed_result(node)]  # type: ignore[union-attr]
    if projected:
        zero = all([_initial(c, start[:1], state), _initial(c, start[1:], hidden)])
    else:
        zero = _initial(c, start, hidden)
    found = [reads, state, hidden]  # the last one is the cell's state, of which only an LSTM has one
    return [Value.of(shape, {-1: ids}, {-1: zero}) for shape, ids in zip(shapes, found, strict=False)]


NOT_ZERO = "a weight is computed in a way that does not keep what is masked at zero"


def _not_zero(weights: list[Value]) -> bool:
    """Whether the state of a masked unit need not stay at 0."""
    return any(
        ids is not None and not flag for weight in weights for ids, flag in zip(weight.units, weight.zero, strict=True)
    )


def _cell(c: Coupling, cell: list[Value], reads: Ids | None, hidden: Ids | None, state: Ids | None) -> None:
    """Tie the gates of one layer and direction to the hidden units, and what it reads to its input and state."""
    c.join(reads, cell[0].units[1])
    c.join(state, cell[1].units[1])
    for tensor in cell:
        ids = tensor.units[0]
        if ids is None or hidden is None:
            c.pin(ids if hidden is None else hidden, "one of the hidden units, which cannot follow")
        else:
            # Rows are gate after gate (i f g o): row g * H + h is unit h, and all gates lose the same ones.
            c.units.tie(ids.reshape(-1, len(hidden)), hidden[None, :])


def _initial(c: Coupling, start: Sequence[Any], hidden: Ids | None) -> bool:
    """Initial states: zeros that the layer makes for itself follow, others are joined; whether all are 0.

    Zeros of the code around it may have `layer.hidden_size` as their size, or a literal; a trial shows which.
    """
    zero = True
    for node in start:
        state, maker = c.read(node), _maker(node)
        if operation_name(maker) in ("zeros", "new_zeros", "zeros_like") and state.units[-1] is None:
            # Zeros that nn.LSTM makes itself have its hidden_size, which
            # thinning sets; those of other code may have a literal.
            if module_of(maker) != module_of(c.node) and hidden is not None:
                c.doubt(hidden)
            continue
        c.join(state.units[-1], hidden)
        zero = zero and state.zero[-1]
    return zero


def _maker(node: Node) -> Node:
    """The call behind casts and copies."""
    while node.op == "call_function" and operation_name(node) in ("to", "_to_copy", "type_as", "clone", "contiguous"):
        node = node.all_input_nodes[0]
    return node


def cell(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """lstm_cell, gru_cell, rnn cells: one step, unrolled by the code."""
    x, start = c.read(a["input"]), a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
    weights = [c.read(a[name]) for name in ("w_ih", "w_hh", "b_ih", "b_hh") if a.get(name) is not None]
    if c.owner(nn.RNNCellBase) is None:
        return boundary(c, node, a)
    if _not_zero(weights):
        return boundary(c, node, a, NOT_ZERO)
    for key, name in (("w_ih", "weight_ih"), ("w_hh", "weight_hh")):
        c.weight(a[key], name)
    hidden = weights[1].units[1]
    c.reads_along(a["w_ih"], 1)
    c.reads_along(a["w_hh"], 1)
    _cell(c, weights, x.units[-1], hidden, hidden)
    zero = _initial(c, start, hidden)
    found = [Value.of(shape, {-1: hidden}, {-1: zero}) for shape in _state_shapes(node)]
    return found if isinstance(fixed_result(node), list) else found[0]


def _state_shapes(node: Node) -> list[tuple[int, ...]]:
    result = fixed_result(node)
    return [value.shape for value in result] if isinstance(result, list) else [result.shape]


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "_sparse_mm", "smm", "hspmm"), matmul),
    **dict.fromkeys(("addmm", "baddbmm", "_sparse_addmm"), addmm),
    "scaled_dot_product_attention": attention,
    "prelu": prelu,
    "embedding": embedding,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
}

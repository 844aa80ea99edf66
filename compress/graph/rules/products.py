"""Rules of products that are written with indices: einsum, tensordot, and the bilinear layer.

An index that returns is joined, one that is summed over is contracted. Called through the table in `rules/table.py`.

    torch.einsum("bnd,de->bne", x, w)       # d is contracted: x's channels and w's rows go together
    torch.tensordot(x, w, ([1], [0]))       # x (b, c, h, w), w (c, e): "bchw,ce->bhwe"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.macs.einsum import Index, index_sizes, parsed
from compress.graph.rules.pointwise_and_reductions import aligned
from compress.graph.rules.shapes import boundary
from compress.graph.trace import shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value


def einsum(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Any equation in which no operand repeats a letter."""
    operands = c.values(a["tensors"])
    terms, result = parsed(a["equation"], [operand.shape for operand in operands])
    if any(len(term) != len(set(term)) for term in terms):
        return boundary(c, node, a, "a diagonal is taken")
    return _product(c, node, operands, terms, result)


def _product(
    c: Coupling, node: Node, operands: Sequence[Value], terms: Sequence[Sequence[Index]], result: Sequence[Index]
) -> Value:
    """A sum over all indices that the result lacks; 0 times anything is 0, so one clean operand suffices."""
    units: dict[Index, Ids | None] = {}
    zero: dict[Index, bool] = {}
    sizes = index_sizes(terms, [operand.shape for operand in operands])
    for term, operand in zip(terms, operands, strict=True):
        for index, size, ids, flag in zip(term, operand.shape, operand.units, operand.zero, strict=True):
            if size == sizes[index]:  # else it is broadcast
                units[index] = c.join(units[index], ids) if index in units else ids
                zero[index] = zero.get(index, False) or flag
    for index, ids in units.items():
        if index not in result and not zero[index]:
            c.pin(ids, "summed over, and not zero where masked")
    places = dict(enumerate(result))
    return Value.of(shape_of(node), {k: units[x] for k, x in places.items()}, {k: zero[x] for k, x in places.items()})


def tensordot(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Pairs of dimensions are summed over; what is left of the one stands before what is left of the other."""
    left, right = c.read(a["self"]), c.read(a["other"])
    one: list[Index] = list(range(len(left.shape)))
    other: list[Index] = [str(dim) for dim in range(len(right.shape))]
    for i, j in zip(a["dims_self"], a["dims_other"], strict=True):
        other[j] = i % len(one)
    summed = set(one) & set(other)
    return _product(c, node, (left, right), (one, other), [x for x in (*one, *other) if x not in summed])


def outer(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Each element of one vector with each of the other."""
    return _product(c, node, [c.read(each) for each in node.args[:2]], (["i"], ["j"]), ["i", "j"])


def bilinear(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """left (.., I), weight (O, I, J), right (.., J) -> (.., O)."""
    left, right = c.read(a["input1"]), c.read(a["input2"])
    weight = c.weight(a["weight"], "weight")
    for dim in (1, 2):
        c.reads_along(a["weight"], dim)
    batch: list[Index] = [*range(len(left.shape) - 1)]
    product = _product(c, node, (left, weight, right), ([*batch, "i"], ["o", "i", "j"], [*batch, "j"]), [*batch, "o"])
    return product if a["bias"] is None else aligned(c, [product, c.read(a["bias"])], product.shape, all)


RULES: dict[str, Rule] = {"einsum": einsum, "tensordot": tensordot, "bilinear": bilinear, "outer": outer, "ger": outer}

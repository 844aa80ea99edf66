"""Rules of sums over pairs: distances and similarities of two tensors, and matrices with a diagonal.

A channel that is zero in both adds nothing to a distance, one that is zero in either adds nothing to a product. Called
through the table in `rules/table.py`.

    torch.cdist(x, y)                       # (.., P, M), (.., R, M) -> (.., P, R): M is summed over
    F.cosine_similarity(x, y, dim=1)        # products and squares, summed over the channels
    x @ torch.eye(x.shape[-1])              # rows and columns follow the width together
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.rules.norms import pin_statistic, sum_over
from compress.graph.rules.pointwise_and_reductions import aligned
from compress.graph.rules.shapes import boundary
from compress.graph.sizes.computed import counted_by
from compress.graph.sizes.origins import forms_of
from compress.graph.trace import shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value

SUMMED = "summed over, and not zero where masked"


def _summed(c: Coupling, ids: Ids | None, zero: bool) -> None:
    if zero:
        sum_over(c, ids)
    else:
        pin_statistic(c, ids, SUMMED, can_go=False)


def cdist(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Distances of all rows of one tensor from all of another."""
    left, right = (c.read(each) for each in node.args[:2])
    ends = [Value(x.shape[-1:], x.units[-1:], x.zero[-1:]) for x in (left, right)]
    width = aligned(c, ends, left.shape[-1:], all)
    _summed(c, width.units[0], width.zero[0])
    fronts = [Value(x.shape[:-2], x.units[:-2], (False,) * (len(x.shape) - 2)) for x in (left, right)]
    batch = aligned(c, fronts, shape_of(node)[:-2], lambda flags: False)
    return Value.of(shape_of(node), {**dict(enumerate(batch.units)), -2: left.units[-2], -1: right.units[-2]}, {})


def product(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """cosine_similarity and vecdot: element by element, then a sum over one dimension."""
    operands = [c.read(each) for each in node.args[:2]]
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in operands)))
    both = aligned(c, operands, shape, any)
    gone = a.get("dim", -1) % len(shape)
    _summed(c, both.units[gone], both.zero[gone])
    kept = [k for k in range(len(shape)) if k != gone]
    units = {k: both.units[old] for k, old in enumerate(kept)}
    return Value.of(shape_of(node), units, {k: both.zero[old] for k, old in enumerate(kept)})


def distance(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """torch.dist: one number for all elements."""
    operands = [c.read(each) for each in node.args[:2]]
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in operands)))
    both = aligned(c, operands, shape, all)
    for ids, zero in zip(both.units, both.zero, strict=True):
        _summed(c, ids, zero)
    return Value.fixed(())


def loss(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """mse_loss and the like: 0 of two zeros, element by element, as a sum or as a mean."""
    operands = [c.read(each) for each in node.args[:2]]
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in operands)))
    both, reduced = aligned(c, operands, shape, all), a.get("reduction", MEAN)
    if reduced == NONE:
        return both
    for ids, zero in zip(both.units, both.zero, strict=True):
        if reduced == MEAN:
            pin_statistic(c, ids, "averaged over")
        else:
            _summed(c, ids, zero)
    return Value.fixed(())


NONE, MEAN = 0, 1  # of `reduction`


def renorm(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Each part along one dimension is scaled down to a length, over which all other dimensions are summed."""
    x = c.read(node.args[0])
    for dim, (ids, zero) in enumerate(zip(x.units, x.zero, strict=True)):
        if dim != a["dim"] % len(x.shape):
            _summed(c, ids, zero)
    return x


def broadcast(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Several tensors in the shape that they share."""
    operands = c.values(a["tensors"])
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in operands)))
    return [aligned(c, operands, shape, lambda flags, k=k: flags[k]) for k in range(len(operands))]  # type: ignore[misc]


def eye(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Ones along the diagonal: what goes of the rows goes of the columns."""
    shape = shape_of(node)
    forms = forms_of(node, [a[name] for name in ("n", "m") if name in a])
    rows, columns = (counted_by(c, form, size) for form, size in zip((forms * 2)[:2], shape, strict=True))
    if shape[0] != shape[1]:
        for ids in (rows, columns):
            c.pin(ids, "a diagonal runs along")
        return Value.fixed(shape)
    ids = c.join(rows, columns) if rows is not None or columns is not None else None
    return Value.of(shape, {0: ids, 1: ids}, {})


def diagonal(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """A vector on the diagonal of a matrix; the other way round the matrix keeps its size."""
    x, shape = c.read(node.args[0]), shape_of(node)
    plain = a.get("diagonal", a.get("offset", 0)) == 0 and (a.get("dim1", -2), a.get("dim2", -1)) == (-2, -1)
    if len(shape) != len(x.shape) + 1 or not plain:
        return boundary(c, node, a, "a diagonal runs along")
    last = len(x.shape) - 1
    return Value.of(
        shape,
        {**dict(enumerate(x.units)), last + 1: x.units[last]},
        {**dict(enumerate(x.zero)), last + 1: x.zero[last]},
    )


def picked_diagonal(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """The diagonal over two dimensions of space becomes the last dimension; channels beside it stay."""
    x = c.read(node.args[0])
    pair = {each % len(x.shape) for each in (a.get("dim1", 0), a.get("dim2", 1))}
    if any(x.units[dim] is not None for dim in pair):
        return boundary(c, node, a, "a diagonal runs along")
    left = [dim for dim in range(len(x.shape)) if dim not in pair]
    units = dict(enumerate(x.units[dim] for dim in left))
    return Value.of(shape_of(node), units, dict(enumerate(x.zero[dim] for dim in left)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("cdist", "_cdist_forward", "_euclidean_dist"), cdist),
    **dict.fromkeys(("cosine_similarity", "linalg_vecdot"), product),
    "dist": distance,
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"), loss),
    **dict.fromkeys(("renorm", "renorm_"), renorm),
    "broadcast_tensors": broadcast,
    "eye": eye,
    **dict.fromkeys(("diag", "diag_embed"), diagonal),
    "diagonal": picked_diagonal,
}

"""Rules of operations by tensors of indices: looking up, gathering, scattering, summing up by target.

Indices say where along one dimension; whatever has no say in that (the channels of nodes that exchange messages) goes
through. Called through the table in `rules/table.py`.

    x[edges]                                                    # (N, C) -> (E, C): the C follow, the N stay
    zeros.index_add(0, targets, messages)                       # (N, C) + (E, C): the C of both are joined
    zeros.scatter_add(0, targets[:, None].expand_as(m), m)      # the expanded indices have the C of m
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.rules.pointwise_and_reductions import aligned
from compress.graph.rules.shapes import boundary
from compress.graph.trace import operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, fixed_result

BY_INDEX = "looked up by an index"


def index(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x[tensor, ...]: dimensions with a tensor stay, the others follow; the tensors' own take their place."""
    x, given = c.read(node.args[0]), list(a["indices"])
    if not _whole_numbers(given):
        return boundary(c, node, a)
    for dim, entry in enumerate(given):
        c.pin(x.units[dim] if entry is not None else None, BY_INDEX)
    return _picked(c, x, given, shape_of(node))[0]


def _whole_numbers(given: Sequence[Node | None]) -> bool:
    """Whether the indices are numbers; masks pick as many as they please."""
    return all(each is None or each.meta["val"].dtype not in (torch.bool, torch.uint8) for each in given)


def _picked(
    c: Coupling, x: Value, given: Sequence[Node | None], shape: tuple[int, ...]
) -> tuple[Value, dict[int, int | None]]:
    """x[given], and for each of its dimensions the one of x that it is; None for those of the indices."""
    tensors = [dim for dim, entry in enumerate(given) if entry is not None]
    values = [c.read(given[dim]) for dim in tensors]
    sizes = tuple(torch.broadcast_shapes(*(value.shape for value in values)))
    found = aligned(c, values, sizes, lambda flags: False)
    rest = [dim for dim in range(len(x.shape)) if dim not in tensors]
    # Where the tensors stand in a row their dimensions stand there, too, else in front: x[:, i, :, j] is (i, .., ..).
    together = tensors == list(range(tensors[0], tensors[-1] + 1))
    before = [dim for dim in rest if dim < tensors[0]] if together else []
    origin = dict(enumerate([*before, *[None] * len(sizes), *rest[len(before) :]]))
    units = {k: found.units[k - len(before)] if dim is None else x.units[dim] for k, dim in origin.items()}
    zero = {k: dim is not None and x.zero[dim] for k, dim in origin.items()}
    return Value.of(shape, units, zero), origin


def assign(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x[mask] = number, x[indices] = values, or with `accumulate` their sum."""
    x, given = c.read(node.args[0]), list(a["indices"])
    if not _whole_numbers(given):
        return _assign_masked(c, node, a)
    values = c.read(node.args[2])
    sizes = [shape_of(entry) for entry in given if entry is not None]
    shape = _picked_shape(x.shape, given, tuple(torch.broadcast_shapes(*sizes)))
    picked, origin = _picked(c, x, given, shape)
    zero_number = _is_zero(node.args[2])
    both = aligned(c, [picked, values], shape, lambda flags: flags[0] and (flags[1] or zero_number))
    for place, entry in enumerate(given):
        c.pin(x.units[place] if entry is not None else None, "assigned by an index")
    units, zero = dict(enumerate(x.units)), dict(enumerate(x.zero))
    for k, dim in origin.items():
        if dim is None:
            c.pin(both.units[k], "assigned by an index")
        else:
            units[dim], zero[dim] = both.units[k], both.zero[k]
    return Value.of(x.shape, units, zero)


def _picked_shape(shape: tuple[int, ...], given: Sequence[Node | None], indices: tuple[int, ...]) -> tuple[int, ...]:
    tensors = [dim for dim, entry in enumerate(given) if entry is not None]
    rest = [dim for dim in range(len(shape)) if dim not in tensors]
    together = tensors == list(range(tensors[0], tensors[-1] + 1))
    before = [dim for dim in rest if dim < tensors[0]] if together else []
    return (*(shape[dim] for dim in before), *indices, *(shape[dim] for dim in rest[len(before) :]))


def _is_zero(value: Any) -> bool:
    """Whether a tensor or number that the code gives is 0."""
    known = value.meta.get("value") if isinstance(value, Node) else value
    return isinstance(known, torch.Tensor | int | float) and not bool(torch.as_tensor(known).any())


def _assign_masked(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x[mask] = number: what is zero stays it where the mask is off, as that of `x < 0` is at 0."""
    given, value = a["indices"], node.args[2]
    mask = given[0] if len(given) == 1 and isinstance(given[0], Node) else None
    if mask is None or mask.meta["val"].dtype != torch.bool or any(size != 1 for size in shape_of(value)):
        return boundary(c, node, a, "assigned by an index")
    x, chosen = c.read(node.args[0]), c.read(mask)
    count = len(chosen.shape)
    front = Value(x.shape[:count], x.units[:count], x.zero[:count])
    both = aligned(c, [front, chosen], x.shape[:count], all)
    units, zero = {**dict(enumerate(x.units)), **dict(enumerate(both.units))}, dict(enumerate(both.zero))
    return Value.of(x.shape, units, zero)


def select(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """index_select: the entries of one dimension that a vector of indices names."""
    x, chosen = c.read(a["self"]), c.read(a["index"])
    if not x.shape:
        return fixed_result(node)
    dim = a["dim"] % len(x.shape)
    c.pin(x.units[dim], BY_INDEX)
    units = {**dict(enumerate(x.units)), dim: chosen.units[0] if chosen.shape else None}
    return Value.of(shape_of(node), units, {k: flag and k != dim for k, flag in enumerate(x.zero)})


def gather(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """gather and take_along_dim: for each entry of the indices the one of x that it names along a dimension."""
    x, chosen = c.read(a["self"]), c.read(a["index" if "index" in a else "indices"])
    if not x.shape or a.get("dim") is None:
        return boundary(c, node, a)
    shape, dim = shape_of(node), a["dim"] % len(x.shape)
    c.pin(x.units[dim], BY_INDEX)
    units: dict[int, Ids | None] = {dim: chosen.units[dim]}
    zero: dict[int, bool] = {}
    for k in (k for k in range(len(shape)) if k != dim):
        own = [each.units[k] for each in (x, chosen) if each.shape[k] == shape[k]]
        if any(ids is not None and len(ids) != shape[k] for ids in (x.units[k], chosen.units[k])):
            _pin_both(c, x.units[k], chosen.units[k])  # fewer indices than there are entries beside them
        else:
            units[k] = _joined(c, own)
            zero[k] = x.shape[k] == shape[k] and x.zero[k]
    return Value.of(shape, units, zero)


def _pin_both(c: Coupling, *each: Ids | None) -> None:
    for ids in each:
        c.pin(ids, "indices for a part of them only")


def _joined(c: Coupling, found: Sequence[Ids | None]) -> Ids | None:
    result = found[0]
    for ids in found[1:]:
        result = c.join(result, ids) if result is not None or ids is not None else None
    return result


def write(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """index_add, scatter_add, scatter_reduce, index_copy, ...: values go to where indices say along a dimension."""
    x, chosen = c.read(a["self"]), c.read(a["index"])
    given = a.get("source", a.get("src", a.get("value")))
    source = c.read(given)
    if not x.shape or (source.shape and len(source.shape) != len(x.shape)):
        return boundary(c, node, a)
    dim, whole = a["dim"] % len(x.shape), len(chosen.shape) == len(x.shape) > 1 or "scatter" in operation_name(node)
    units, zero = dict(enumerate(x.units)), dict(enumerate(x.zero))
    for k in (k for k in units if k != dim):
        beside = [each for each in (chosen if whole else None, source if source.shape else None) if each is not None]
        clean = source.zero[k] if source.shape else _is_zero(given)
        if any(each.shape[k] != x.shape[k] for each in beside):
            _pin_both(c, x.units[k], *(each.units[k] for each in beside))
        else:
            units[k], zero[k] = _joined(c, [x.units[k], *(each.units[k] for each in beside)]), x.zero[k] and clean
    c.pin(x.units[dim], "written by an index")
    _entries(c, node, (chosen, dim if whole else 0), (source, dim) if source.shape else None)
    return Value.of(shape_of(node), units, zero)


def _entries(c: Coupling, node: Node, chosen: tuple[Value, int], source: tuple[Value, int] | None) -> None:
    """The indices and what goes where they say: summed up, entries that are zero may leave, with their index."""
    each = [value.units[dim] for value, dim in (chosen, source or chosen) if value.shape]
    sums = operation_name(node).removesuffix("_") in ("index_add", "scatter_add") and source is not None
    if sums and all(ids is not None for ids in each):
        ids = _joined(c, each)
        c.pin(
            ids if source is not None and not source[0].zero[source[1]] else None,
            "summed over, and not zero where masked",
        )
        return
    for ids in each:
        c.pin(ids, "written by an index")


def segments(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """segment_reduce: runs of rows of the first dimension become one each."""
    x = c.read(a["data"])
    for name in ("lengths", "indices", "offsets"):
        if a.get(name) is not None:
            c.pin_all(c.read(a[name]), "runs that are reduced")
    dim = a.get("axis", 0)
    for ids in x.units[: dim + 1]:
        c.pin(ids, "runs that are reduced")
    rest = range(dim + 1, len(x.shape))
    # A run without rows is what the operation starts with: 0 for a sum, minus infinity for a maximum.
    return Value.of(
        shape_of(node), {k: x.units[k] for k in rest}, {k: x.zero[k] and a["reduce"] == "sum" for k in rest}
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(("index", "_unsafe_index"), index),
    **dict.fromkeys(("index_put", "index_put_", "_unsafe_index_put"), assign),
    "index_select": select,
    **dict.fromkeys(("gather", "take_along_dim"), gather),
    **dict.fromkeys(
        (f"{name}{end}" for name in ("index_add", "index_copy", "index_fill", "index_reduce") for end in ("", "_")),
        write,
    ),
    **dict.fromkeys((f"scatter{name}{end}" for name in ("", "_add", "_reduce") for end in ("", "_")), write),
    "segment_reduce": segments,
}

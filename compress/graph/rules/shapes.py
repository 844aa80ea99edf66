"""Rules of operations that move elements about: permutations, concatenation, padding, shuffles.

For each operation the same index arithmetic on unit ids that it does on elements; views.py has those that cut
dimensions anew. Called through the table in `rules/table.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.sizes.computed import counted_by, follow
from compress.graph.sizes.numbers import Form
from compress.graph.sizes.origins import forms_of
from compress.graph.trace import has_unknown_size, operation_name, shape_of, source_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, fixed_result


def permuted(x: Value, order: list[int]) -> Value:
    """Dimensions in a new order."""
    return Value(
        tuple(x.shape[dim] for dim in order),
        tuple(x.units[dim] for dim in order),
        tuple(x.zero[dim] for dim in order),
    )


def permute(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """permute, transpose, movedim, swapaxes, ...: channels move with their dimension."""
    x = c.read(node.args[0])
    # One implementation for all kinds of permutations: the operation
    # itself runs on sizes 2, 3, 4, ... (1 could be squeezed).
    sizes = torch.empty([2 + k for k in range(len(x.shape))], device="meta")  # each dimension known by its size
    moved = node.target(sizes, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return permuted(x, [size - 2 for size in moved.shape])


def expand(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """expand, expand_as, broadcast_to: dimensions of size 1 grow, to a literal size or to that of the other tensor."""
    x, shape = c.read(node.args[0]), shape_of(node)
    shift = len(shape) - len(x.shape)
    units: dict[int, Ids | None] = {shift + dim: ids for dim, ids in enumerate(x.units) if ids is not None}
    zero = {shift + dim: flag for dim, flag in enumerate(x.zero)}
    if operation_name(node) == "expand_as":
        other = c.read(node.args[1])
        for dim, ids in enumerate(other.units):
            # The grown dimension has the other tensor's channels, but its
            # numbers are copies of one: not zero where they are masked.
            if ids is not None and (dim < shift or x.shape[dim - shift] < shape[dim]):
                units[dim], zero[dim] = ids, False
        return Value.of(shape, units, zero)
    forms = forms_of(node, a["size"])
    for dim, size in enumerate(shape):
        if size > 1 and (dim < shift or x.shape[dim - shift] == 1):
            units[dim], zero[dim] = _grown(c, x, node, forms[dim], size), False
        elif forms[dim]:
            follow(c, forms[dim] or {}, units.get(dim))
        # expand(-1) keeps the size by itself; a number given for a
        # dimension that does not grow must be right after removal.
        elif (ids := units.get(dim)) is not None and a["size"][dim] != -1:
            c.doubt(ids)
    return Value.of(shape, units, zero)


def _grown(c: Coupling, x: Value, node: Node, form: Form | None, size: int) -> Ids | None:
    """Units of copies of one element: of a kernel they may be channels, of channels they are more of each."""
    argument = source_of(node.args[0])
    if c.name_of(argument) is None and not c.is_weight(argument) and x.labelled():
        return None
    return counted_by(c, form, size)


def repeat(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Copies along each dimension, as many as the code says."""
    x, shape = c.read(node.args[0]), shape_of(node)
    shift = len(shape) - len(x.shape)
    counts = a["repeats"] if "repeats" in a else a["dims"]
    forms = [None] * (len(shape) - len(counts)) + forms_of(node, counts)
    units: dict[int, Ids | None] = {}
    for dim, size in enumerate(shape):
        old = x.shape[dim - shift] if dim >= shift else 1
        ids = x.units[dim - shift] if dim >= shift else None
        if ids is not None:
            # repeat(2) of channels 0 1 2 is 0 1 2 0 1 2, repeat_interleave(2) (below) 0 0 1 1 2 2.
            units[dim] = np.tile(ids, size // old)
        elif old == 1 < size:
            units[dim] = _grown(c, x, node, forms[dim], size)
    return Value.of(shape, units, {shift + dim: flag and x.shape[dim] > 1 for dim, flag in enumerate(x.zero)})


def repeat_interleave(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Each element several times in a row; only a number, not a tensor, of repetitions."""
    x, shape, dim = c.read(node.args[0]), shape_of(node), a.get("dim")
    if dim is None and len(x.shape) == 1:
        dim = 0
    if dim is None or not isinstance(a.get("repeats"), int):
        return boundary(c, node, a)
    units = {k: ids for k, ids in enumerate(x.units) if ids is not None}
    dim %= len(shape)
    if dim in units:
        units[dim] = np.repeat(units[dim], a["repeats"])
    return Value.of(shape, dict(units), dict(enumerate(x.zero)))


def cat(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Ids one after the other; a part that is fixed gets units that are pinned."""
    parts, shape = c.values(node.args[0]), shape_of(node)
    # torch.cat accepts an empty (0,) tensor among parts of any rank, and ignores it.
    parts = [part for part in parts if len(part.shape) == len(shape)]
    dim = a.get("dim", 0) % len(shape)
    units: dict[int, Ids | None] = {}
    for k in range(len(shape)):
        found = [part.units[k] for part in parts]
        if k == dim and any(ids is not None for ids in found):
            units[k] = np.concatenate([_units_of(c, part, k) for part in parts])
        elif k != dim and shape[k] > 1:
            units[k] = _joined(c, found)
    zero = {k: all(part.zero[k] for part in parts) for k in range(len(shape))}
    zero[dim] = all(part.zero[dim] for part in parts if part.units[dim] is not None)  # nothing else is ever masked
    return Value.of(shape, units, zero)


def _joined(c: Coupling, found: list[Ids | None]) -> Ids | None:
    result = found[0]
    for ids in found[1:]:
        if result is not None or ids is not None:
            result = c.join(result, ids)
    return result


def _units_of(c: Coupling, part: Value, dim: int) -> Ids:
    ids = part.units[dim]
    if ids is None:
        ids = c.units.fresh(part.shape[dim])
        c.pin(ids, "concatenated with a part of fixed size")
    return ids


def stack(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """A new dimension that nothing is removed from."""
    parts, shape = c.values(node.args[0]), shape_of(node)
    dim = a.get("dim", 0) % len(shape)
    rest = [k for k in range(len(shape)) if k != dim]
    units = {to: _joined(c, [part.units[k] for part in parts]) for k, to in enumerate(rest) if shape[to] > 1}
    return Value.of(shape, units, {to: all(part.zero[k] for part in parts) for k, to in enumerate(rest)})


def flip(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """A flipped dimension has its channels in reverse order."""
    x = c.read(node.args[0])
    dims = {dim % len(x.shape) for dim in (a["dims"] if "dims" in a else [int(operation_name(node) == "fliplr")])}
    units = tuple(ids[::-1] if ids is not None and k in dims else ids for k, ids in enumerate(x.units))
    return Value(x.shape, units, x.zero)


def roll(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Along space nothing happens to channels; along channels the distance is a literal."""
    x = c.read(node.args[0])
    dims = {dim % len(x.shape) for dim in a["dims"]} or set(range(len(x.shape)))
    for dim in dims:
        c.pin(x.units[dim], "rolled by a distance that the code fixes")
    return Value.of(x.shape, {k: ids for k, ids in enumerate(x.units) if k not in dims}, dict(enumerate(x.zero)))


def pad(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Padding of space passes channels on; zero channels padded to a shortcut are pinned where they are."""
    x, shape, widths = c.read(node.args[0]), shape_of(node), list(a["pad"] if "pad" in a else a["padding"])
    constant = a.get("mode", "constant") == "constant"
    # A border of another constant than 0 surrounds masked channels, too: they are not zero any more.
    clean = not (constant and a.get("value"))
    units: dict[int, Ids | None] = {}
    for k, ids in enumerate(x.units):
        # Pairs of widths start with the last dimension.
        place = 2 * (len(shape) - 1 - k)
        before, after = widths[place : place + 2] if place < len(widths) else (0, 0)
        if ids is None or (before == 0 and after == 0):
            units[k] = ids
        elif constant and before >= 0 and after >= 0:
            extra = c.units.fresh(before + after)
            c.pin(extra, "padded channels")
            units[k] = np.concatenate([extra[:before], ids, extra[before:]])
        else:
            c.pin(ids, "padded along the channels")
    return Value.of(shape, units, {k: flag and clean for k, flag in enumerate(x.zero)})


def pixel_shuffle(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(.., C*r*r, H, W) -> (.., C, H*r, W*r): the r*r channels of one output channel go together."""
    x, r = c.read(node.args[0]), a["upscale_factor"]
    return _blocks(c, x, shape_of(node), r * r)


def _blocks(c: Coupling, x: Value, shape: tuple[int, ...], count: int) -> Value:
    dim, ids = len(shape) - 3, x.units[len(shape) - 3]
    for space in (dim + 1, dim + 2):
        c.pin(x.units[space], "rearranged together with the channels")
    units: dict[int, Ids | None] = {k: x.units[k] for k in range(dim)}
    if ids is not None:
        # Input channel c * r * r + i * r + j becomes pixel (i, j) of
        # output channel c: the r * r in a row stand or fall together.
        units[dim] = c.units.tie_along(ids.reshape(-1, count), 1)
    return Value.of(shape, units, {k: x.zero[k] for k in range(dim + 1)})


def pixel_unshuffle(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(.., C, H*r, W*r) -> (.., C*r*r, H, W): each channel becomes r*r neighbours."""
    x, r = c.read(node.args[0]), a["downscale_factor"]
    shape = shape_of(node)
    dim, units = len(shape) - 3, {k: x.units[k] for k in range(len(shape) - 2)}
    for space in (dim + 1, dim + 2):
        c.pin(x.units[space], "rearranged together with the channels")
    ids = units[dim]
    if ids is not None:
        units[dim] = np.repeat(ids, r * r)
    return Value.of(shape, units, {k: x.zero[k] for k in range(dim + 1)})


def channel_shuffle(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(N, g*c, ..) seen as (g, c), transposed and flattened; each of the g blocks loses the same positions."""
    x, groups = c.read(node.args[0]), a["groups"]
    ids = x.units[1]
    if ids is None:
        return x
    block = ids.reshape(groups, -1)
    # 0 1 2 3 4 5 with g = 2 comes out as 0 3 1 4 2 5; {0, 3}, {1, 4}, {2, 5} keep it so with any of them gone.
    c.units.tie_along(block, 0)
    return Value(x.shape, (x.units[0], block.T.reshape(-1), *x.units[2:]), x.zero)


def getitem(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """One of the several results of a call."""
    return c.values(node.args[0])[node.args[1]]  # type: ignore[index]


def boundary(c: Coupling, node: Node, a: dict[str, Any], reason: str = "") -> Result:
    """No rule: whatever comes in must keep its size, and nothing can be removed from what comes out."""
    if not reason:
        reason = "a size depends on values" if has_unknown_size(node) else SAID.get(operation_name(node), NO_RULE)
    for value in c.values([*node.args, *node.kwargs.values()]):
        c.pin_all(value, reason)
    return fixed_result(node)


NO_RULE = "no rule for the operation"
SAID = {
    "pairwise_distance": "each channel adds its share of the 1e-6 to the distance",
    "_has_compatible_shallow_copy_type": "forward replaces a weight through `.data`; compute it as a tensor and call "
    "the function (`F.conv2d(x, weight)`) instead",
}
"""What an operation without a rule stands for in a model's code, where its name does not say it."""


RULES: dict[str, Rule] = {
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"), permute),
    **dict.fromkeys(("mT", "mH", "matrix_H", "adjoint", "numpy_T"), permute),
    **dict.fromkeys(("transpose_", "t_", "swapaxes_", "swapdims_"), permute),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("flip", "flipud", "fliplr"), flip),
    "roll": roll,
    **dict.fromkeys(
        ("pad", "constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))),
        pad,
    ),
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
    "getitem": getitem,
    "boundary": boundary,
}

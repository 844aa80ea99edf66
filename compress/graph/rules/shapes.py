"""Rules of operations that move elements about: views, permutations, concatenation, splitting, padding.

For each operation the same index arithmetic on unit ids that it does on elements. Where a view breaks one dimension
into several, what is left after a removal must still be a full block, so one of the new dimensions gives way and the
others are tied: (g*c) -> (g, c) keeps either whole blocks or the same positions of each block. Called through the
table in `rules/table.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from compress.graph.computed_sizes import counted_by, follow
from compress.graph.coupling import Coupling, Result, Rule, Value, fixed_result, same_units
from compress.graph.settable_numbers import whole_number
from compress.graph.size_origins import Form, Kept, forms_of
from compress.graph.trace import has_unknown_size, operation_name, shape_of, source_of
from compress.graph.units import Ids


def reshape(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """view, reshape, flatten, squeeze, ...: all that keeps the order of the elements.

    Runs of old and new dimensions of equal product are matched; ids move within a run only.
    """
    x, shape = c.read(node.args[0]), shape_of(node)
    if 0 in x.shape:
        return Value.fixed(shape)
    given = _given_sizes(node, a, len(shape))
    units: dict[int, Ids | None] = {}
    zero: dict[int, bool] = {}
    for old, new in _runs(x.shape, shape):
        labelled = [dim for dim in old if x.units[dim] is not None]
        if len(labelled) > 1:
            for dim in labelled:
                c.pin(x.units[dim], "two channel dimensions are merged into one")
        elif labelled and _mixed(x, labelled[0], old, [shape[j] for j in new]):
            c.pin(x.units[labelled[0]], MIXED)
        elif labelled and new:
            to, ids = _moved(c, x, labelled[0], old, new, shape, given)
            if to is not None:
                units[to], zero[to] = ids, x.zero[labelled[0]]
        else:
            for j in new:
                follow(c, given.get(j) or {}, None)
    return Value.of(shape, units, zero)


MIXED = "positions and channels are cut anew across their borders, so that the image size decides which channels meet"


def _mixed(x: Value, dim: int, old: list[int], sizes: list[int]) -> bool:
    """(positions, channels) -> (channels, height, width) without a transposition, as in the attention of MA-Net."""
    outer = [k for k in old if k < dim and x.shape[k] > 1]
    return bool(outer) and sum(size > 1 for size in sizes) > 1


def _moved(
    c: Coupling, x: Value, dim: int, old: list[int], new: list[int], shape: tuple[int, ...], given: Given
) -> tuple[int | None, Ids | None]:
    """The new dimension that has the channels of an old one, and their units."""
    ids, forms = x.units[dim], [given.get(j, FOLLOWS) for j in new]
    if ids is not None and None in forms:
        c.doubt(ids)
    to, ids = _spread(c, x, dim, old, [shape[j] for j in new], forms)
    if to is None:
        return None, None
    follow(c, forms[to] or {}, ids)
    if len(new) == 1 < len(old):
        _note_width(c, ids)
    return new[to], ids


Given = dict[int, Form | None]
FOLLOWS: Form = {}
"""Of a size that is not given, or given as -1: it is what is left."""


def _given_sizes(node: Node, a: dict[str, Any], count: int) -> Given:
    """New dimension -> where the size comes from that the code gives for it; None for a number of unknown origin."""
    sizes = next((a[name] for name in ("size", "shape", "sizes") if isinstance(a.get(name), list | tuple)), None)
    if sizes is None or operation_name(node) not in LITERAL_SIZES:
        return {}
    first = a["dim"] % (count - len(sizes) + 1) if "dim" in a else 0
    forms = forms_of(node, sizes)
    return {
        first + k: FOLLOWS if size in (-1, 1) else form for k, (size, form) in enumerate(zip(sizes, forms, strict=True))
    }


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """(2, 12, 5) -> (2, 3, 4, 5) gives [0]-[0], [1]-[1, 2], [2]-[3]; leftover ones join nothing."""
    runs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        left, right = [i], [j]
        i, j = i + 1, j + 1
        while True:
            a, b = math.prod(old[k] for k in left), math.prod(new[k] for k in right)
            if a == b:
                break
            if a < b:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        runs.append((left, right))
    return runs


def _spread(
    c: Coupling, x: Value, dim: int, old: list[int], sizes: list[int], given: list[Form | None]
) -> tuple[int | None, Ids | None]:
    """Units of one old dimension over the new ones: which of them carries them now, and its ids."""
    ids = x.units[dim]
    assert ids is not None
    lifted = ids.reshape([-1 if k == dim else 1 for k in old])
    block = np.broadcast_to(lifted, [x.shape[k] for k in old]).reshape(sizes)
    varying = [k for k, size in enumerate(sizes) if size > 1 and not same_units(c.units, block, k)]
    if not varying:
        varying = [int(np.argmax(sizes))]
    chosen = _chosen(c, sizes, varying, ids, given) if len(varying) > 1 else varying[0]
    if chosen is None:
        c.pin(ids, "the sizes of the view are literals")
        return None, None
    for axis in reversed([k for k in range(len(sizes)) if k != chosen]):
        block = c.units.tie_along(block, axis) if axis in varying else np.take(block, 0, axis=axis)
    if len(varying) > 1:
        _note_heads(c, sizes, varying, chosen, block, given)
    return chosen, block


def _chosen(c: Coupling, sizes: list[int], varying: list[int], ids: Ids, given: list[Form | None]) -> int | None:
    """Which of the new dimensions gives way."""
    if c.heads.within and _heads(c, sizes, varying, given) is not None and not c.moved_on():
        c.doubt(ids)
        return len(sizes) - 1
    chosen: int | None = c.choose(_ways(c, sizes, varying, given), ids)
    return chosen


def _heads(c: Coupling, sizes: list[int], varying: list[int], given: list[Form | None]) -> int | None:
    """The dimension that counts heads, of a view into heads and positions, by the number that the module keeps.

    In a module that counts heads, another number that it keeps counts the heads that keys and values share.
    """
    heads = _number(c, HEAD_COUNTS)[1]
    found = [k for k in varying if k < len(sizes) - 1 and heads and (sizes[k] == heads or given[k])]
    return found[-1] if found and len(sizes) - 1 in varying else None


def _note_heads(
    c: Coupling, sizes: list[int], varying: list[int], chosen: int, block: Ids, given: list[Form | None]
) -> None:
    """The numbers by which a module's code makes the view follow, if it goes by them; a trial tells."""
    if _heads(c, sizes, varying, given) is None or c.moved_on():
        return
    c.has_heads = True
    within = chosen == len(sizes) - 1
    name, size = _number(c, HEAD_SIZES if within else HEAD_COUNTS)
    if size == sizes[chosen] and not c.explicit():
        c.attribute(name, block)
    if within:
        c.cut_within(block)


def _note_width(c: Coupling, ids: Ids | None) -> None:
    """The number by which a module's code joins its heads again."""
    name, size = _number(c, INNER_WIDTHS)
    if ids is not None and size == len(ids) and not c.explicit():
        c.attribute(name, ids)


def _number(c: Coupling, names: tuple[str, ...]) -> tuple[str, int | None]:
    """The first of these attributes that the calling module has as a whole number."""
    caller = c.caller()
    found = {name: whole_number(caller, name) for name in names}
    return next(((name, value) for name, value in found.items() if value is not None), ("", None))


def _ways(c: Coupling, sizes: list[int], varying: list[int], given: list[Form | None]) -> list[int]:
    """The dimension of the heads first where the module knows their number; then what follows, then the largest."""
    ordered = sorted(varying, key=lambda k: (given[k] is None, bool(given[k]), -sizes[k]))
    heads = _number(c, HEAD_COUNTS)[1]
    known = _heads(c, sizes, varying, given)
    if known is not None:
        return [known] + [k for k in ordered if k != known]
    if heads:
        candidates = [k for k in varying if k < len(sizes) - 1]
        exact = [k for k in candidates if sizes[k] == heads][-1:]
        multiple = [k for k in candidates if sizes[k] % heads == 0][-1:]
        first = exact or multiple
        return first + [k for k in ordered if k not in first]
    counted = [k for k in varying if _is_kept(given[k])]
    if len(sizes) - 1 in varying and shape_of(c.node)[-len(sizes) :] == tuple(sizes):
        return counted + [k for k in ordered if k not in counted]  # (tokens, heads, positions), by whatever name
    return ordered


def _is_kept(form: Form | None) -> bool:
    """Whether a size is a number that a module keeps."""
    return bool(form) and all(isinstance(origin, Kept) for origin in form or {})


LITERAL_SIZES = ("view", "reshape", "unflatten", "_unsafe_view")
HEAD_COUNTS = ("num_heads", "n_heads", "heads", "nhead", "num_attention_heads", "n_head")
INNER_WIDTHS = ("inner_dim", "all_head_size", "output_dim")
HEAD_SIZES = ("head_dim", "dim_head", "head_size", "d_head", "d_k", "attention_head_size")


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
            if ids is not None and (dim < shift or x.shape[dim - shift] < shape[dim]):
                units[dim], zero[dim] = ids, False
        return Value.of(shape, units, zero)
    forms = forms_of(node, a["size"])
    for dim, size in enumerate(shape):
        if size > 1 and (dim < shift or x.shape[dim - shift] == 1):
            units[dim], zero[dim] = _grown(c, x, node, forms[dim], size), False
        elif forms[dim]:
            follow(c, forms[dim] or {}, units.get(dim))
        elif (ids := units.get(dim)) is not None and a["size"][dim] != -1:
            c.doubt(ids)
    return Value.of(shape, units, zero)


def _grown(c: Coupling, x: Value, node: Node, form: Form | None, size: int) -> Ids | None:
    """Units of copies of one element: of a fixed buffer they may be channels, of channels they are more of each."""
    if c.name_of(source_of(node.args[0])) is None and x.labelled():
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
            units[dim] = np.tile(ids, size // old)
        elif old == 1 < size:
            units[dim] = _grown(c, x, node, forms[dim], size)
    return Value.of(shape, units, {shift + dim: flag and x.shape[dim] > 1 for dim, flag in enumerate(x.zero)})


def repeat_interleave(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Each element several times in a row; only a number, not a tensor, of repetitions."""
    x, shape, dim = c.read(node.args[0]), shape_of(node), a.get("dim")
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


def index(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x[tensor, ...] with the tensors on the leading dimensions: those are pinned, the rest follows."""
    x, shape, given = c.read(node.args[0]), shape_of(node), list(a["indices"])
    while given and given[-1] is None:
        given.pop()
    if any(entry is None for entry in given):
        return boundary(c, node, a)
    for dim in range(len(given)):
        c.pin(x.units[dim], "looked up by an index")
    shift = len(shape) - len(x.shape)
    tail = range(len(given), len(x.shape))
    return Value.of(shape, {k + shift: x.units[k] for k in tail}, {k + shift: x.zero[k] for k in tail})


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
    clean = not (constant and a.get("value"))
    units: dict[int, Ids | None] = {}
    for k, ids in enumerate(x.units):
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
    "_has_compatible_shallow_copy_type": "forward replaces a weight through `.data`; compute it as a tensor and call "
    "the function (`F.conv2d(x, weight)`) instead",
}
"""What an operation without a rule stands for in a model's code, where its name does not say it."""


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as"), reshape
    ),
    **dict.fromkeys(("reshape_as", "squeeze_", "unsqueeze_", "ravel"), reshape),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"), permute),
    **dict.fromkeys(("mT", "mH", "adjoint", "numpy_T", "transpose_", "t_", "swapaxes_", "swapdims_"), permute),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    "index": index,
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

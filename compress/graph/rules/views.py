"""Rules of views: what keeps the order of the elements and cuts the dimensions anew.

Where a view breaks one dimension into several, what is left after a removal must still be a full block, so one of the
new dimensions gives way and the others are tied: (g*c) -> (g, c) keeps either whole blocks or the same positions of
each block. Called through the table in `rules/table.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.sizes.computed import by_fixed_size, follow
from compress.graph.sizes.numbers import Cut, Form, Kept
from compress.graph.sizes.origins import forms_of, literals_of
from compress.graph.sizes.settable import whole_number
from compress.graph.trace import operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, same_units


def reshape(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """view, reshape, flatten, squeeze, ...: all that keeps the order of the elements.

    Runs of old and new dimensions of equal product are matched; ids move within a run only.
    """
    x, shape = c.read(node.args[0]), shape_of(node)
    # Products of sizes are all 0, and no runs can be told apart.
    if 0 in x.shape:
        return Value.fixed(shape)
    given = _given_sizes(node, a, len(shape))
    units: dict[int, Ids | None] = {}
    zero: dict[int, bool] = {}
    for old, new in _runs(x.shape, shape):
        labelled = [dim for dim in old if x.units[dim] is not None]
        if len(labelled) > 1:
            x = _buffers_stay(c, x, labelled)
            labelled = [dim for dim in labelled if x.units[dim] is not None]
        if len(labelled) > 1:
            for dim in labelled:
                c.pin(x.units[dim], "two channel dimensions are merged into one")
        # The ids would differ for another image size: (H*W, C) -> (C, H, W) without a transposition.
        elif labelled and _mixed(c, x, labelled[0], old, [(shape[j], given.get(j, FOLLOWS)) for j in new]):
            c.pin(x.units[labelled[0]], MIXED)
        elif labelled and new:
            to, ids = _moved(c, x, labelled[0], old, new, shape, given)
            if to is not None:
                units[to], zero[to] = ids, x.zero[labelled[0]]
        else:
            for j in new:
                follow(c, given.get(j) or {}, None)
    _note_cut(c, node, x, shape, units)
    return Value.of(shape, units, zero)


def _buffers_stay(c: Coupling, x: Value, dims: list[int]) -> Value:
    """The same value without the units that are of buffers only, such as the points of a grid: no mask covers those."""
    units = [ids for name, value in c.tensors.items() if not _is_buffer(c, name) for ids in value.units]
    held = {root for ids in units if ids is not None for root in c.units.roots(ids).ravel().tolist()}
    kept = list(x.units)
    for dim, ids in enumerate(x.units):
        if ids is not None and dim in dims and held.isdisjoint(c.units.roots(ids).tolist()):
            c.pin(ids, "a dimension of a buffer is merged with channels")
            kept[dim] = None
    return replace(x, units=tuple(kept))


def _is_buffer(c: Coupling, name: str) -> bool:
    place, _, own = name.rpartition(".")
    return place in c.modules and own in c.modules[place]._buffers


def _note_cut(c: Coupling, node: Node, x: Value, shape: tuple[int, ...], units: dict[int, Ids | None]) -> None:
    """Whether positions become as many as the code says, and the channels what is left: right for one image size."""
    (literal, place), asked = literals_of(node), node.args[1] if len(node.args) > 1 else None
    if not isinstance(asked, list | tuple) or len(asked) != len(literal) or len(asked) != len(shape):
        return
    rest = list(asked).index(-1)
    if units.get(rest) is None:
        return
    for old, new in _runs(x.shape, shape):
        positions = any(x.units[dim] is None and x.shape[dim] > 1 for dim in old)
        sizes = [literal[j] for j in new if shape[j] > 1 and j != rest]
        if positions and sizes and all(sizes):
            c.cuts.append(Cut(place, frozenset(), True))


MIXED = "positions and channels are cut anew across their borders, so that the size of the input decides which meet"


def _mixed(c: Coupling, x: Value, dim: int, old: list[int], new: Sequence[tuple[int, Form | None]]) -> bool:
    """(positions, channels) -> (channels, height, width) without a transposition, as in the attention of MA-Net.

    (samples, channels * 9) -> (samples * channels, 3, 3) is none: what the code cuts off fits into the channels.
    """
    # Channels behind positions, and cut into more than one dimension of size > 1: blocks do not fall on whole channels.
    outer = [k for k in old if k < dim and x.shape[k] > 1]
    _, *cut = [(size, form) for size, form in new if size > 1] or [(1, None)]
    if not outer or not cut:
        return False
    fits = x.shape[dim] % math.prod(size for size, _ in cut) == 0
    return not fits or any(form == FOLLOWS or by_fixed_size(c, form) for _, form in cut)


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
    # Label every element with its channel's id and view the labels as the tensor is viewed: 6 channels -> (2, 3) gives
    # [[0 1 2] [3 4 5]]. Both dimensions vary. If the first gives way, rows are tied, {0 1 2} {3 4 5}: whole blocks go;
    # if the second does, columns are, {0 3} {1 4} {2 5}: the same position of every block.
    lifted = ids.reshape([-1 if k == dim else 1 for k in old])
    block = np.broadcast_to(lifted, [x.shape[k] for k in old]).reshape(sizes)
    varying = [k for k, size in enumerate(sizes) if size > 1 and not same_units(c.units, block, k)]
    if not varying:
        # All elements are of one unit already; the largest dimension is as good as any to carry it.
        varying = [int(np.argmax(sizes))]
    chosen = _chosen(c, sizes, varying, ids, given) if len(varying) > 1 else varying[0]
    if chosen is None:
        c.pin(ids, _why_stiff(c, sizes, given))
        return None, None
    # From the back, so that the axes still to come keep their numbers.
    for axis in reversed([k for k in range(len(sizes)) if k != chosen]):
        block = c.units.tie_along(block, axis) if axis in varying else np.take(block, 0, axis=axis)
    if len(varying) > 1:
        _note_heads(c, sizes, varying, chosen, block, given)
    return chosen, block


def _why_stiff(c: Coupling, sizes: list[int], given: list[Form | None]) -> str:
    """Why no dimension of a view gives way: the numbers that the code writes, if there are any."""
    written = [str(size) for size, form in zip(sizes, given, strict=True) if form is None]
    place = f" at {literals_of(c.node)[1]}" if literals_of(c.node)[1] else ""
    if written:
        return f"the sizes of the view are literals or products of sizes: {' and '.join(written)}{place}"
    return f"trials without a part of any of the view's dimensions {tuple(sizes)} failed"


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
    """The numbers by which a module's code makes the view follow, if it uses them; a trial shows it."""
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
    # First what is not given or -1 (it is what is left: never
    # wrong), then a known number, last a literal of unknown origin.
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


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as"), reshape
    ),
    **dict.fromkeys(("reshape_as", "squeeze_", "unsqueeze_", "ravel"), reshape),
}

"""Rules of operations that take a dimension apart: splitting, slicing, picking, and gates of two halves.

Here: where a cut lies decides what may go. A cut at a number of the module, or at a part of a size, moves along; one
at a number in the code stays, so that only what lies behind it may go. Called through the table in `rules/table.py`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.pointwise import is_pointwise
from compress.graph.rules.shapes import permuted
from compress.graph.sizes.computed import by_fixed_size, follow
from compress.graph.sizes.numbers import Form
from compress.graph.sizes.origins import forms_of
from compress.graph.trace import operation_name, shape_of
from compress.graph.units import Ids
from compress.graph.values import Result, Value, bound_arguments, fixed_result

FIXED = "cut at a position that the code fixes"


def split(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """split, chunk, tensor_split, unbind: parts by their traced sizes."""
    x, parts = c.read(node.args[0]), fixed_result(node)
    assert isinstance(parts, list)
    if len(parts) == 1 and parts[0].shape == x.shape:
        return [x]
    # unbind: the dimension is gone, each part is one position of it.
    if parts and len(parts[0].shape) < len(x.shape):
        return [_selected(c, x, (a.get("dim") or 0) % len(x.shape)) for _ in parts]
    dim = next(k for k, size in enumerate(x.shape) if any(part.shape[k] != size for part in parts))
    sizes = [part.shape[dim] for part in parts]
    ids = x.units[dim]
    if ids is None:
        for form in _part_forms(node, a, sizes):
            follow(c, form or {}, None)
        return [_part(x, dim, None, size) for size in sizes]
    _cut(c, node, ids, sizes, _part_forms(node, a, sizes))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [_part(x, dim, ids[start : start + size], size) for start, size in zip(starts, sizes, strict=True)]


def _part(x: Value, dim: int, ids: Ids | None, size: int) -> Value:
    shape = [size if k == dim else old for k, old in enumerate(x.shape)]
    units = {k: ids if k == dim else old for k, old in enumerate(x.units)}
    return Value.of(shape, units, dict(enumerate(x.zero)))


def _part_forms(node: Node, a: dict[str, Any], sizes: list[int]) -> list[Form | None]:
    """Where the size of each part comes from; None for numbers of unknown origin, or if there are none."""
    given = a.get("split_sizes", a.get("split_size"))
    if isinstance(given, list | tuple):
        return forms_of(node, given)
    return forms_of(node, [given]) * len(sizes) if given is not None and sizes[-1] == given else [None] * len(sizes)


def _cut(c: Coupling, node: Node, ids: Ids, sizes: list[int], forms: list[Form | None]) -> None:
    """Tie or pin what the parts of a whole dimension need to stay parts of it."""
    if c.explicit() and operation_name(node) == "split_with_sizes":
        return  # query, key and value may lose different ones
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    if all(form is not None for form in forms):
        for start, size, form in zip(starts, sizes, forms, strict=True):
            follow(c, form or {}, ids[start : start + size])
        return
    # Parts of 4, 8, 4 stay in proportion if each block of gcd = 4 loses the same positions: 3, 6, 3.
    block = math.gcd(*sizes)
    # By sizes, 3, 6, 3 works only if the code computes them from the width; of (c, c, 1) what c counts may go, and the
    # last is fixed. A trial shows it.
    ways = ["equal blocks"] * (block > 1) + ["known parts"] * any(forms)
    by_count = operation_name(node) in BY_COUNT and len(set(sizes)) == 1
    way = next(iter(ways), None) if by_count or not ways else c.choose(ways, ids)
    if way == "equal blocks":
        c.units.tie_along(ids.reshape(-1, block), 0)
        return
    for start, size, form in zip(starts, sizes, forms, strict=True):
        if way is not None and form is not None:
            follow(c, form, ids[start : start + size])
        else:
            c.pin(ids[start : start + size], FIXED)


BY_COUNT = ("chunk", "unsafe_chunk")
"""Parts by their number: equal ones stay equal."""


def slice_(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """x[start:end:step] along one dimension."""
    x, shape = c.read(node.args[0]), shape_of(node)
    dim = a.get("dim", 0) % len(shape)
    bounds = a.get("start") or 0, sys.maxsize if a.get("end") is None else a["end"]
    if a.get("step", 1) != 1:
        c.pin(x.units[dim], "taken in steps")
        return _part(x, dim, None, shape[dim])
    size = x.shape[dim]
    forms = forms_of(node, bounds)
    _keep_table(c, node, x, dim, [form for bound, form in zip(bounds, forms, strict=True) if 0 < abs(bound) < size])
    start, end = (min(max(bound + size, 0) if bound < 0 else bound, size) for bound in bounds)
    return _range(c, x, dim, (start, end), _slice_cuts(x.units[dim], size, bounds, forms))


def _keep_table(c: Coupling, node: Node, x: Value, dim: int, forms: Sequence[Form | None]) -> None:
    """A part of a parameter or buffer, such as the positions of so many words: another input takes a longer one."""
    if shape_of(node)[dim] == x.shape[dim] or x.units[dim] is None:
        return
    whole = node.args[0]
    assert isinstance(whole, Node)
    # What is computed from weights alone and read in parts that together are all of it is no table: a packed weight.
    weight = c.name_of(whole) is not None or c.is_weight(whole)
    table = _is_table(c, whole, dim - len(x.shape)) and (c.name_of(whole) is not None or not _read_whole(whole, dim))
    if table and (weight or not all(forms)):
        c.pin(x.units[dim], "a part of a table is taken, which may be a longer one for another input")
    elif any(by_fixed_size(c, form) for form in forms):
        c.pin(x.units[dim], "cut at a size that goes by the input, so that another one may take more of it")


def _is_table(c: Coupling, node: Node, dim: int) -> bool:
    """Whether a dimension, from the end, is that of a parameter or buffer alone, whatever it was multiplied with."""
    if c.name_of(node) is not None or c.is_weight(node):
        return True
    if operation_name(node) in TURNED:
        (source,) = node.all_input_nodes
        given: Any = node.args[1:]
        order = given[0] if isinstance(given[0], list) else _swapped(len(shape_of(node)), *given)
        return _is_table(c, source, order[dim] % len(order) - len(order))
    if operation_name(node) not in PASSING and not is_pointwise(node):
        return False
    shapes = {each: shape_of(each) for each in node.all_input_nodes}
    full = [each for each, shape in shapes.items() if len(shape) >= -dim and shape[dim] == shape_of(node)[dim]]
    return bool(full) and all(_is_table(c, each, dim) for each in full)


def _swapped(count: int, first: int, second: int) -> list[int]:
    order = list(range(count))
    order[first], order[second] = order[second], order[first]
    return order


TURNED = ("permute", "transpose")
PASSING = ("clone", "contiguous", "dropout", "to", "_to_copy")


def _read_whole(whole: Node, dim: int) -> bool:
    """Whether the parts that are sliced from a tensor along a dimension are all of it."""
    size = shape_of(whole)[dim]
    left = np.ones(size, dtype=bool)
    for part in whole.users:
        a, name = bound_arguments(part), operation_name(part)
        if not part.users or name not in ("slice", "narrow") or a["dim"] % len(shape_of(whole)) != dim:
            continue
        if name == "slice":
            left[slice(a.get("start"), a.get("end"), a.get("step", 1))] = False
        elif isinstance(a["start"], int):
            left[a["start"] : a["start"] + a["length"]] = False
    return not left.any()


def narrow(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """A start and a length along one dimension."""
    x, dim = c.read(node.args[0]), a["dim"] % len(shape_of(node))
    forms = forms_of(node, [a["start"], a["length"]])
    _keep_table(c, node, x, dim, forms if a["start"] != 0 else forms[1:])
    if not isinstance(a["start"], int):
        c.pin(x.units[dim], "taken from where a tensor says")
        return _part(x, dim, None, a["length"])
    start, end = a["start"], a["start"] + a["length"]
    ids = x.units[dim]
    counted = [None, None] if ids is None else [ids[:start], ids[start:end]]
    return _range(c, x, dim, (start, end), list(zip(counted, forms, strict=True)))


Cuts = list[tuple[Ids | None, Form | None]]
"""What a number of the code counts, and where it comes from."""


def _slice_cuts(ids: Ids | None, size: int, bounds: tuple[int, int], given: list[Form | None]) -> Cuts:
    """A bound counts what lies before it, or behind it where it is negative; one beyond either end counts nothing."""
    found: Cuts = []
    for bound, form in zip(bounds, given, strict=True):
        if 0 < bound < size or -size < bound < 0:
            # x[:3] keeps its meaning as long as the number 3 counts what lies before; x[-3:] counts what lies behind.
            counted = None if ids is None else ids[:bound] if bound > 0 else ids[bound:]
            found.append((counted, _negated(form) if bound < 0 and form else form))
        elif form:
            found.append((ids, form))
    return found


def _range(c: Coupling, x: Value, dim: int, bounds: tuple[int, int], cuts: Cuts) -> Value:
    """From one position to another."""
    (start, end), ids = bounds, x.units[dim]
    cuts = [(counted, form) for counted, form in cuts if counted is None or len(counted)]
    if all(form is not None for _, form in cuts):
        for counted, form in cuts:
            follow(c, form or {}, counted)
    elif ids is not None:
        _fixed_range(c, ids, (start, end), [counted for counted, _ in cuts if counted is not None])
    return _part(x, dim, None if ids is None else ids[start:end], max(end - start, 0))


def _fixed_range(c: Coupling, ids: Ids, bounds: tuple[int, int], counted: list[Ids]) -> None:
    """Numbers of unknown origin: parts of a size that the code rounds, or literals; a trial shows which."""
    # x[:, 4:8] of 16: the borders stay borders if each block of 4 loses the same positions.
    block = math.gcd(*bounds, len(ids))
    ways = ["equal blocks", "what lies behind"] if block > 1 else ["what lies behind"]
    way = c.choose(ways, ids)
    if way == "equal blocks":
        c.units.tie_along(ids.reshape(-1, block), 0)
    for fixed in counted if way == "what lies behind" else [ids] if way is None else []:
        c.pin(fixed, FIXED)


def _negated(form: Form | None) -> Form:
    return {origin: -share for origin, share in (form or {}).items()}


def select(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """One position of a dimension: what is picked by number must stay where it is."""
    x = c.read(node.args[0])
    return _selected(c, x, a["dim"] % len(x.shape))


def _selected(c: Coupling, x: Value, dim: int) -> Value:
    c.pin(x.units[dim], "picked by its position")
    return permuted(x, [k for k in range(len(x.shape)) if k != dim])


def glu(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """The first half times the sigmoid of the second: the same positions of both go, and 0 times anything is 0."""
    x = c.read(node.args[0])
    dim = a["dim"] % len(x.shape)
    ids = x.units[dim]
    half = None if ids is None else c.units.tie_along(ids.reshape(2, -1), 0)
    return _part(x, dim, half, x.shape[dim] // 2)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split", "unbind"), split),
    **dict.fromkeys(("hsplit", "vsplit", "dsplit", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"), split),
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    "glu": glu,
}

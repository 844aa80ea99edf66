"""Rules of operations that cut space into windows, put windows together, or turn it.

Here: unfold and fold in both forms, rot90. Not here: pooling (`pointwise_and_reductions.py`), convolutions
(`layers.py`). Called through the table in `table.py`.

    F.unfold(x, 3)      # x (N, C, H, W) -> (N, C * 9, L): each channel becomes nine neighbours
    F.fold(y, size, 3)  # (N, C * 9, L) -> (N, C, H, W): the nine of one channel go together
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch.fx import Node

from compress.graph.coupling import Coupling, Rule
from compress.graph.rules.shapes import permuted
from compress.graph.trace import shape_of
from compress.graph.values import Result, Value


def im2col(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(.., C, H, W) -> (.., C * windows' size, number of windows)."""
    x, shape, size = c.read(node.args[0]), shape_of(node), math.prod(a["kernel_size"])
    dim = len(shape) - 2
    for ids in x.units[dim + 1 :]:
        c.pin(ids, "cut into windows along")
    channels = x.units[dim]
    # F.unfold puts place k of the window of channel c at c * size + k: each id `size` times in a row.
    units = {**dict(enumerate(x.units[:dim])), dim: None if channels is None else np.repeat(channels, size)}
    return Value.of(shape, units, dict(enumerate(x.zero[: dim + 1])))


def col2im(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """(.., C * windows' size, number of windows) -> (.., C, H, W): overlapping windows are summed up."""
    x, shape, size = c.read(node.args[0]), shape_of(node), math.prod(a["kernel_size"])
    dim = len(x.shape) - 2
    c.pin(x.units[-1], "put together from windows along")
    channels = x.units[dim]
    joined = None if channels is None else c.units.tie_along(channels.reshape(-1, size), 1)
    return Value.of(shape, {**dict(enumerate(x.units[:dim])), dim: joined}, dict(enumerate(x.zero[: dim + 1])))


def unfold(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """`Tensor.unfold`: windows along one dimension, whose positions become the last dimension."""
    x = c.read(node.args[0])
    dim = a["dimension"] % len(x.shape)
    c.pin(x.units[dim], "cut into windows along")
    kept = [k for k in range(len(x.shape)) if k != dim]
    return Value.of(shape_of(node), {k: x.units[k] for k in kept}, {k: x.zero[k] for k in kept})


def rot90(c: Coupling, node: Node, a: dict[str, Any]) -> Result:
    """Quarter turns: a turn is a flip of one dimension and an exchange of the two."""
    x, turns = c.read(node.args[0]), a["k"] % 4
    first, second = (dim % len(x.shape) for dim in a["dims"])
    # As ATen does it: one turn is flip(second) and a transposition, three are flip(first) and a transposition.
    flipped = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns]
    units = tuple(ids[::-1] if ids is not None and k in flipped else ids for k, ids in enumerate(x.units))
    order = list(range(len(x.shape)))
    if turns % 2:
        order[first], order[second] = second, first
    return permuted(Value(x.shape, units, x.zero), order)


RULES: dict[str, Rule] = {"im2col": im2col, "col2im": col2im, "unfold": unfold, "rot90": rot90}

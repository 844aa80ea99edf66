"""What is known of one tensor of a trace: its shape, and the unit of every position.

`Value`, `Heads`, and what the rules need of a call: its arguments by name, fixed results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from compress.graph.trace import module_of, operation_name, shape_of, sizes_of
from compress.graph.units import Ids, Units


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one tensor.

    Attributes:
        shape: its sizes in the example.
        units: for each dimension the unit of each position, or None where nothing can be removed.
        zero: for each dimension whether the elements of a masked unit are exactly zero there; a position
            that is not may still go if only parameters read it, because those are masked as well.
    """

    shape: tuple[int, ...]
    units: tuple[Ids | None, ...]
    zero: tuple[bool, ...]

    @staticmethod
    def fixed(shape: Sequence[int]) -> Value:
        """A tensor that nothing can be removed from: an input, a constant."""
        return Value(tuple(shape), (None,) * len(shape), (False,) * len(shape))

    @staticmethod
    def of(shape: Sequence[int], units: Mapping[int, Ids | None], zero: Mapping[int, bool]) -> Value:
        """Units and zeros by dimension; dimensions that are not named are fixed."""
        count = len(shape)
        known = {dim % count: ids for dim, ids in units.items()} if count else {}
        zeros = {dim % count: flag for dim, flag in zero.items()} if count else {}
        return Value(
            tuple(shape),
            # A dimension of size 1 has no units: its last channel cannot go.
            tuple(known.get(dim) if size > 1 else None for dim, size in enumerate(shape)),
            tuple(zeros.get(dim, False) for dim in range(count)),
        )

    def labelled(self) -> list[int]:
        """The dimensions from which something could be removed."""
        return [dim for dim, ids in enumerate(self.units) if ids is not None]

    def without_zero(self) -> Value:
        """The same value, of which nothing is known to be zero where its unit is."""
        return replace(self, zero=(False,) * len(self.shape))


Result = Value | list[Value]


@dataclass(frozen=True)
class Heads:
    """How views that cut channels into heads and their positions are read.

    Attributes:
        within: the same positions of all heads go together, instead of whole heads.
        explicit: modules whose number and sizes of heads are numbers that a removal sets.
        rigid: modules whose code holds the size of a head as a literal, found by a trial.
    """

    within: bool = False
    explicit: Collection[str] = ()
    rigid: Collection[str] = ()


def choice_key(node: Node) -> tuple[Any, ...]:
    """Names a call: equal in the eval and in the training trace, whose nodes are different objects."""
    return module_of(node), operation_name(node), shape_of(node.args[0]), _shapes(node.meta.get("val"))


def bound_arguments(node: Node) -> dict[str, Any]:
    """The arguments of a call by their names in the operation's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        # `getitem`, torch.cond: python functions without an ATen schema.
        return {str(index): argument for index, argument in enumerate(node.args)}
    bound = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    bound.update(zip([argument.name for argument in schema.arguments], node.args, strict=False))
    return {**bound, **node.kwargs}


def fixed_result(node: Node) -> Result:
    """Fixed tensors of the shapes that the call yields."""
    shapes = _shapes(node.meta.get("val"))
    if isinstance(node.meta.get("val"), list | tuple):
        return [Value.fixed(shape) for shape in shapes]
    return Value.fixed(shapes)


def _shapes(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(_shapes(item) for item in value)
    return sizes_of(value) if isinstance(value, torch.Tensor) else ()


def same_units(units: Units, ids: Ids, axis: int) -> bool:
    """Whether all positions along an axis belong to one unit."""
    roots = units.roots(ids)
    return bool(np.all(roots == np.take(roots, [0], axis=axis)))

"""Every operation of a forward pass in a few numbers, so that two passes can be compared inside too.

`Recording`, which keeps for each operation the numbers in its call and a mark of its result, and `first_parting`,
which finds the first operation at which two passes are different functions, although nothing of it may reach the
outputs (a dead ReLU, a hard gate, a factor of zero in the code).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NEXT_TO_NOTHING = 1e-3
"""A factor in the code that is smaller than this closes a branch; while recording it is 0.5."""
TRUSTED = 1e-20, 1e20
"""Squares of lengths between these have neither lost nor overflowed anything, also in single precision."""
FEW = 64
UNINITIALISED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "resize_", "empty_permuted")


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        module: the innermost module that was running.
        operation: its name, such as `aten.mul`.
        numbers: what in the call is a number that computes (no size, no position).
        shape: of the result.
        mark: the result times fixed random numbers, summed up; NaN if there is nothing to compare.
        norm: the result's length.
        closed: whether all of the result is one and the same number: nothing in front of it is seen behind it.
        dtype: of the result.
    """

    module: str
    operation: str
    numbers: tuple[float, ...]
    shape: tuple[int, ...]
    mark: float
    norm: float
    closed: bool
    dtype: torch.dtype


class NoDropout(TorchDispatchMode):
    """Random masks keep everything, whatever operation draws them, outside the branches of `torch.cond`."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "overloadpacket", ""))  # `torch.cond` has none
        if name == "aten.bernoulli_":
            return args[0].fill_(1)
        if name == "aten.bernoulli":
            return torch.ones_like(args[0])
        if name == "aten.native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name in ("aten.rrelu_with_noise", "aten.rrelu_with_noise_"):
            args = args[:4]  # without `training` the slope is the mean of those that are drawn
        return self.call(name, func, args, kwargs or {})

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Any other operation."""
        return func(*args, **kwargs)


class Recording(NoDropout):
    """Keeps a step for each operation that computes floating-point numbers, and opens branches closed by a factor.

    Args:
        running: the names of the modules that are running, innermost last.
    """

    def __init__(self, running: Sequence[str]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._running = running
        self._weights = torch.zeros(0)

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation and keeps its step."""
        result = func(*(_opened(name, args)), **kwargs)
        first = result[0] if isinstance(result, tuple) and result else result
        if isinstance(first, Tensor) and (first.is_floating_point() or first.is_complex()) and not _is_view(func):
            module = self._running[-1]
            numbers, shape = _numbers(func, args, kwargs), tuple(first.shape)
            if name.rpartition(".")[2] in UNINITIALISED or not first.numel():
                self.steps.append(Step(module, name, numbers, shape, math.nan, math.nan, False, first.dtype))
            else:
                made = any(isinstance(each, Tensor) for each in args) and "_like" not in name
                self.steps.append(Step(module, name, numbers, shape, *self._mark(first, made), first.dtype))
        return result

    def _mark(self, tensor: Tensor, made: bool) -> tuple[float, float, bool]:
        flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
        if len(self._weights) < len(flat) or self._weights.dtype != flat.dtype or self._weights.device != flat.device:
            random = torch.rand(max(len(flat), 4096), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            self._weights = (2 * random - 1).to(flat)
        mark = torch.dot(flat, self._weights[: len(flat)]).item()
        return mark, _length(flat), made and len(flat) > 1 and _is_constant(flat)


def _length(flat: Tensor) -> float:
    """The Euclidean norm; its square, which is quicker, may overflow."""
    square = torch.dot(flat, flat).item() if flat.dtype in (torch.float32, torch.float64) else 0.0
    return math.sqrt(square) if TRUSTED[0] < square < TRUSTED[1] else torch.linalg.vector_norm(flat).item()


def _is_constant(flat: Tensor) -> bool:
    """Whether all elements are one number; a few of them tell nearly always that they are not."""
    few = flat[:: max(1, len(flat) // FEW)]
    return all(bool(torch.sub(*reversed(torch.aminmax(part))) <= NEXT_TO_NOTHING * 1e-3) for part in (few, flat))


def _is_view(func: Any) -> bool:
    schema = getattr(func, "_schema", None)
    return schema is not None and any(
        each.alias_info is not None and not each.alias_info.is_write for each in schema.returns
    )


def _opened(name: str, args: Any) -> Any:
    """The arguments, with 0.5 for a factor that is next to nothing."""
    if name not in ("aten.mul", "aten.mul_") or not args[0].is_floating_point():
        return args
    return tuple(0.5 if _closes(each) else each for each in args)


def _closes(argument: Any) -> bool:
    if isinstance(argument, Tensor):
        lone = argument.numel() == 1 and not argument.dim() and argument.is_floating_point()
        return lone and abs(argument.item()) < NEXT_TO_NOTHING
    return isinstance(argument, float | int) and abs(argument) < NEXT_TO_NOTHING


def _numbers(func: Any, args: Any, kwargs: Any) -> tuple[float, ...]:
    """All numbers of a point-wise operation; of any other those that are not whole numbers by type."""
    kinds = (int, float) if torch.Tag.pointwise in getattr(func, "tags", ()) else (float,)
    return tuple(
        float(each) for each in (*args, *kwargs.values()) if isinstance(each, kinds) and not isinstance(each, bool)
    )


@dataclass(frozen=True)
class Parting:
    """Where two passes are different functions.

    Attributes:
        module: the module that was running.
        difference: how large it is, relative.
        what: the operation, and what differs.
    """

    module: str
    difference: float
    what: str


def first_parting(
    before: Sequence[Step], after: Sequence[Step], tolerance: float, skipped: Collection[str] = (), results: bool = True
) -> Parting | None:
    """The first operation with other numbers, or with a result of the same shape and other values; None if none.

    Results of another shape have lost channels and cannot be compared here. A module that ran other operations than
    before (another path for another size) is left to the comparison of what comes after it.

    Args:
        before: the masked pass.
        after: the thinned pass.
        tolerance: of a result, relative to its length.
        skipped: modules that compute in another way on purpose.
        results: compare results too; rounding in single precision may be large inside and without effect outside.
    """
    largest = 0.0
    for old, new in _paired(before, after, skipped):
        changed = [(a, b) for a, b in zip(old.numbers, new.numbers, strict=False) if not _alike(a, b, tolerance)]
        if changed:
            listed = ", ".join(f"{a:g} becomes {b:g}" for a, b in changed)
            return Parting(old.module, math.inf, f"a number in {_short(old)} follows the width: {listed}")
        if results and old.shape == new.shape and math.isfinite(old.norm):
            scale = max(old.norm, NEXT_TO_NOTHING, 1e-6 * largest)
            largest = max(largest, old.norm)
            found = abs(old.mark - new.mark) / scale
            if not found <= tolerance:
                return Parting(old.module, found, f"{_short(old)} gives other values")
    return None


def _alike(old: float, new: float, tolerance: float) -> bool:
    return old == new or math.isclose(old, new, rel_tol=tolerance) or (math.isnan(old) and math.isnan(new))


def _short(step: Step) -> str:
    return step.operation.removeprefix("aten.")


def _paired(before: Sequence[Step], after: Sequence[Step], skipped: Collection[str]) -> list[tuple[Step, Step]]:
    """Steps of the modules that ran the same operations in both passes, in the order of the first pass."""
    if [(s.module, s.operation) for s in before] == [(s.module, s.operation) for s in after]:
        return [(a, b) for a, b in zip(before, after, strict=True) if a.module not in skipped]
    own: dict[str, tuple[list[Step], list[Step]]] = {}
    for side, steps in enumerate((before, after)):
        for step in steps:
            own.setdefault(step.module, ([], []))[side].append(step)
    alike = {
        name: iter(new)
        for name, (old, new) in own.items()
        if name not in skipped and [s.operation for s in old] == [s.operation for s in new]
    }
    return [(step, next(alike[step.module])) for step in before if step.module in alike]

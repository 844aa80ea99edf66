"""Every operation of a forward pass in a few numbers, so that two passes can be compared inside too.

`Recording`, which keeps for each operation the numbers in its call and a mark of its result, and `first_parting`,
which finds the first operation at which two passes are different functions, although nothing of it may reach the
outputs (a dead ReLU, a hard gate, a factor of zero in the code).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compress.graph.dropout import NoDropout

NEXT_TO_NOTHING = 1e-3
"""A factor in the code that is smaller than this closes a branch; while recording it is 0.5."""
TRUSTED = 1e-20, 1e20
"""Squares of lengths between these have neither lost nor overflowed anything, also in single precision."""
FEW = 64
UNINITIALISED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "resize_", "empty_permuted")

Count = tuple[tuple[int, ...], tuple[float, ...]]
"""A small tensor: its shape and its elements."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        module: the innermost module that was running.
        operation: its name, such as `aten.mul`.
        numbers: what in the call is a number that computes (no size, no position).
        counts: likewise what in the call is a tensor of few whole numbers: its shape, and the numbers.
        shape: of the result.
        mark: the result times fixed random numbers, summed up; NaN if nothing is compared.
        norm: the result's length; likewise, and NaN in a pass that is compared with an earlier one.
        closed: whether numbers that differ went in and one and the same number came out: nothing in front of it is
            seen behind it.
        dtype: of the result; None where its precision is no matter.
    """

    module: str
    operation: str
    numbers: tuple[float, ...]
    shape: tuple[int, ...]
    mark: float
    norm: float
    closed: bool
    dtype: torch.dtype | None
    counts: tuple[Count, ...] = ()


class Recording(NoDropout):
    """Keeps a step for each operation that computes floating-point numbers, and opens branches closed by a factor.

    Of point-wise operations on whole numbers and flags only the numbers in the call are kept: a counter may be held
    against the width.

    A mark costs as much as many an operation, so it is left out where `first_parting` does not look at it: in single
    precision, and where the result has another shape than in the pass before, since it has lost channels then.

    Args:
        running: the names of the modules that are running, innermost last.
        before: the steps of the pass that this one will be compared with.
    """

    def __init__(self, running: Sequence[str], before: Sequence[Step] | None = None) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._running = running
        self._weights = torch.zeros(0)
        self._before, self._in_step, self._exact = before, before is not None, True

    def drawn(self, name: str, args: Any) -> None:
        """Keeps the share that would be dropped: where nothing is, no value shows it."""
        self._keep(name, args[0].dtype, tuple(each for each in args[1:] if isinstance(each, float)))

    def _keep(
        self, name: str, dtype: torch.dtype | None, numbers: tuple[float, ...] = (), counts: tuple[Count, ...] = ()
    ) -> None:
        """Keeps a step whose result is not compared."""
        self.steps.append(Step(self._running[-1], name, numbers, (), math.nan, math.nan, False, dtype, counts))

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation and keeps its step."""
        given = _opened(name, args)
        result = func(*given, **kwargs)
        first = result[0] if isinstance(result, tuple) and result else result
        if isinstance(first, Tensor):
            if not (first.is_floating_point() or first.is_complex()):
                self._keep_counting(name, func, args, kwargs)
            elif name == LIFTED:
                self._keep(name, None, counts=_few([first]))
            elif not _is_view(func):
                module, shape = self._running[-1], tuple(first.shape)
                numbers, counts = _numbers(func, args, kwargs), _few(_whole(args))
                step = Step(module, name, numbers, shape, math.nan, math.nan, False, first.dtype, counts)
                # From the first result in lower precision on nothing is compared any more: marks differ by rounding.
                self._exact &= first.dtype == torch.float64
                old = self._counterpart(step)
                if name.rpartition(".")[2] not in UNINITIALISED and first.numel():
                    step = self._measured(step, first, given) if old is None else self._beside(step, first, old)
                self.steps.append(step)
        return result

    def _keep_counting(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        """A step of whole numbers or flags, where it is point-wise: a counter may be held against the width there."""
        if torch.Tag.pointwise in getattr(func, "tags", ()):
            # Of one tensor the result shows what it was; of two it may show one only, as `torch.minimum` does.
            several = sum(isinstance(each, Tensor) for each in args) > 1
            self._keep(name, None, _numbers(func, args, kwargs), _few(_whole(args)) if several else ())

    def _beside(self, step: Step, tensor: Tensor, old: Step) -> Step:
        compared = old.shape == step.shape and math.isfinite(old.norm)
        return replace(step, mark=self._mark(_flat(tensor))) if compared else step

    def _measured(self, step: Step, tensor: Tensor, given: Any) -> Step:
        flat = _flat(tensor)
        closed = len(flat) > 1 and _is_constant(flat) and _reads_what_differs(step.operation, tensor, given)
        if not self._exact and self._before is None:
            return replace(step, closed=closed)
        return replace(step, mark=self._mark(flat), norm=_length(flat), closed=closed)

    def _counterpart(self, step: Step) -> Step | None:
        """The same step of the pass before, as long as both have run the same operations."""
        if self._before is None or not self._in_step:
            return None
        place = len(self.steps)
        old = self._before[place] if place < len(self._before) else None
        self._in_step = old is not None and (old.module, old.operation) == (step.module, step.operation)
        return old if self._in_step else None

    def _mark(self, flat: Tensor) -> float:
        if len(self._weights) < len(flat) or self._weights.dtype != flat.dtype or self._weights.device != flat.device:
            # A random projection: one number that differs, but for chance, if
            # any element does. Seeded, so that both passes use the same one.
            random = torch.rand(max(len(flat), 4096), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            self._weights = (2 * random - 1).to(flat)
        return torch.dot(flat, self._weights[: len(flat)]).item()


LIFTED = "aten.lift_fresh"
"""What makes a tensor of numbers in the code: `torch.tensor(8.0)`."""


def _whole(args: Any) -> list[Tensor]:
    """The tensors of whole numbers and flags among the arguments of a call."""
    given = [each for entry in args for each in (entry if isinstance(entry, list | tuple) else [entry])]
    return [each for each in given if isinstance(each, Tensor) and not (each.is_floating_point() or each.is_complex())]


def _few(tensors: Sequence[Tensor]) -> tuple[Count, ...]:
    """What is in the tensors that have few elements."""
    return tuple(
        (tuple(each.shape), tuple(each.reshape(-1).tolist()) if each.numel() <= FEW else ()) for each in tensors
    )


FILLS = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "fill", "fill_", "zero", "zero_")


def _reads_what_differs(operation: str, result: Tensor, given: Any) -> bool:
    """Whether a constant result hides anything: an operation that fills, or reads constants only, hides nothing."""
    if operation.rpartition(".")[2].removesuffix("_like") in FILLS:
        return False
    read = [each for each in pytree.tree_leaves(given) if isinstance(each, Tensor) and each.numel() > 1]
    floating = [each for each in read if each.is_floating_point() or each.is_complex()]
    return any(each is result or not _is_constant(_flat(each)) for each in floating if len(_flat(each)))


def _flat(tensor: Tensor) -> Tensor:
    flat = elements(tensor.detach())
    return (torch.view_as_real(flat) if flat.is_complex() else flat).reshape(-1)


def elements(tensor: Tensor) -> Tensor:
    """A tensor as it is; of a sparse one, such as the adjacency of a graph, only what is stored."""
    if tensor.layout is torch.strided:
        return tensor
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor.to_dense() if tensor.is_mkldnn else tensor.values()


def _length(flat: Tensor) -> float:
    """The Euclidean norm; its square, which is quicker, may overflow."""
    square = torch.dot(flat, flat).item() if flat.dtype in (torch.float32, torch.float64) else 0.0
    return math.sqrt(square) if TRUSTED[0] < square < TRUSTED[1] else torch.linalg.vector_norm(flat).item()


def _is_constant(flat: Tensor) -> bool:
    """Whether all elements are one number; a few of them nearly always show that they are not."""
    few = flat[:: max(1, len(flat) // FEW)]
    return all(bool(torch.sub(*reversed(torch.aminmax(part))) <= NEXT_TO_NOTHING * 1e-3) for part in (few, flat))


@functools.cache
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


WINDOWS = (
    "pool", "upsample", "im2col", "col2im", "reflection_pad", "replication_pad", "roll", "tril", "triu", "topk"
)  # fmt: skip
"""In the names of operations none of whose whole numbers counts channels: kernels, strides, sizes of images."""


def _numbers(func: Any, args: Any, kwargs: Any) -> tuple[float, ...]:
    """All numbers of operations that are point-wise or go by windows; of others those that are not whole by type."""
    kinds, windows = _kinds_of_numbers(func)
    given = [*args[windows], *kwargs.values()]
    if windows.start:
        given = [each for entry in given for each in (entry if isinstance(entry, list | tuple) else [entry])]
    return tuple(float(each) for each in given if isinstance(each, kinds) and not isinstance(each, bool))


@functools.cache
def _kinds_of_numbers(func: Any) -> tuple[type[int] | type[float] | tuple[type[int], type[float]], slice]:
    """Which numbers tell, and among which arguments; if the first is left out, in lists too."""
    name = str(getattr(func, "overloadpacket", ""))
    if name == "aten.convolution":
        return (int, float), slice(3, 8)  # without the number of groups
    if any(word in name for word in WINDOWS):
        return (int, float), slice(1, None)
    return ((int, float) if torch.Tag.pointwise in getattr(func, "tags", ()) else float), slice(None)


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
        counted = [(a, b) for a, b in zip(old.counts, new.counts, strict=False) if not _count_alike(a, b)]
        if counted:
            what = "made by the code" if old.operation == LIFTED else f"that {_short(old)} reads"
            listed = ", ".join(f"{_listed(a)} becomes {_listed(b)}" for a, b in counted)
            return Parting(old.module, math.inf, f"a number in a tensor {what} follows the width: {listed}")
        if results and old.shape == new.shape and math.isfinite(old.norm):
            # Not below a millionth of the largest result so far:
            # cancellation leaves rounding errors of that size behind.
            scale = max(old.norm, NEXT_TO_NOTHING, 1e-6 * largest)
            largest = max(largest, old.norm)
            by = abs(old.mark - new.mark) / scale
            if not by <= tolerance:
                return Parting(old.module, by, f"{_short(old)} gives other values")
    return None


def _alike(old: float, new: float, tolerance: float) -> bool:
    return old == new or math.isclose(old, new, rel_tol=tolerance) or (math.isnan(old) and math.isnan(new))


def _count_alike(old: Count, new: Count) -> bool:
    """One of another shape has lost channels."""
    return old[0] != new[0] or all(_alike(a, b, 0.0) for a, b in zip(old[1], new[1], strict=True))


def _listed(count: Count) -> str:
    _, numbers = count
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{[*numbers]}"


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

"""Numbers that remember which sizes they come from, and the choices that code makes by them.

A sum of multiples of sizes and of kept numbers is a `Number`, which shapes can follow. What else is computed from a
size (a remainder, a product, a rounded part) is a `Derived`, or a `Ratio` if it is a fraction: it counts no channels,
and a comparison of it is a choice by that size all the same. `origins.py` makes the first ones.

    h                               # Number(10), {h: 1}
    h // 2 + w                      # Number(9), {h: 1/2, w: 1}
    h % 4, h * w, min(h // 3, 2)    # Derived
    if h % 4: ...                   # a Decision
"""

from __future__ import annotations

import itertools
import linecache
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

from compress.graph.own_code import is_foreign
from compress.graph.sizes.escapes import choice_by


@dataclass(frozen=True)
class Kept:
    """A number that a module keeps: `path` is `hidden`, or `sizes/1`, or `config/width`."""

    module: str
    path: str


@dataclass(frozen=True)
class Size:
    """The size of a traced tensor in one dimension."""

    serial: str
    dim: int


Form = Mapping[Kept | Size, Fraction]
"""A number as a sum of multiples of others."""


@dataclass(frozen=True)
class Decision:
    """A comparison of what comes from sizes with another number, which may choose a path: where, and what came out.

    Of a size that is compared as a plain number or as a text, the `outcome` is the size.
    """

    place: str
    sizes: frozenset[Size]
    outcome: int


@dataclass(frozen=True)
class Cut(Decision):
    """A view with a number written in the code where the example has a size of the input."""


DECISIONS: list[Decision] = []
"""Those of the trace under way."""
CHECKS = ("assert", "_assert", "torch._assert", "torch._check")


def sizes_in(number: Any) -> frozenset[Size]:
    """The sizes that a number was computed from."""
    if isinstance(number, Number):
        return frozenset(origin for origin in number.form if isinstance(origin, Size))
    return number.sizes if isinstance(number, Derived | Ratio) else frozenset()


def _note_decision(number: Any, other: Any, outcome: bool, frame: FrameType) -> None:
    """Keep it, but for checks: two sizes held against each other, an assertion, an error, and what torch compares."""
    sizes = sizes_in(number)
    if sizes and not sizes_in(other) and is_foreign(frame.f_globals.get("__name__", "")):
        line, following = (linecache.getline(frame.f_code.co_filename, frame.f_lineno + k).strip() for k in (0, 1))
        if not line.startswith(CHECKS) and not following.startswith("raise"):
            DECISIONS.append(Decision(place_in(frame), sizes, bool(outcome)))


def place_in(frame: FrameType) -> str:
    """File and line, and what stands there."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" + (f" `{line}`" if line else "")


def written_in(frame: FrameType) -> set[int]:
    """The whole numbers that the call under way is written with: 64 of `y.view(b, -1, 64)`."""
    where = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    first, last, start, end = where
    if first is None or last is None or start is None or end is None:
        return set()
    lines = [linecache.getline(frame.f_code.co_filename, number) for number in range(first, last + 1)]
    # Columns count bytes; the last line is cut first, since it may be the first one too.
    lines[-1] = lines[-1].encode()[:end].decode(errors="replace")
    lines[0] = lines[0].encode()[start:].decode(errors="replace")
    return {int(each) for each in re.findall(r"(?<![\w.])\d+(?![\w.])", "".join(lines))}


def _noting(base: Any, name: str) -> Any:
    """A comparison, or the truth of a number, that is noted."""
    own = getattr(base, name)

    def compare(self: Any, *others: Any) -> Any:
        outcome = own(self, *others)
        if outcome is not NotImplemented:
            _note_decision(self, others[0] if others else 0, outcome, sys._getframe(1))
        return outcome

    return compare


def derived(value: Any, *parts: Any) -> Any:
    """A result that remembers the sizes that its parts came from; of no size, as it is."""
    if isinstance(value, tuple):  # of divmod
        return tuple(derived(each, *parts) for each in value)
    sizes = frozenset[Size]().union(*map(sizes_in, parts))
    kind = {int: Derived, float: Ratio}.get(type(value)) if sizes else None
    return value if kind is None else kind(value, sizes)


def _deriving(base: Any, name: str) -> Any:
    """An operation whose result remembers its sizes."""
    own = getattr(base, name)

    def operate(self: Any, *others: Any) -> Any:
        found = own(self, *others)
        if found is NotImplemented and others and isinstance(others[0], float):
            found = getattr(float, name)(float(self), *others)  # float's own, which Python asks next, forgets
        return derived(found, self, *others)

    return operate


COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__")
ARITHMETIC = ("add", "sub", "mul", "floordiv", "truediv", "mod", "divmod", "pow")
OPERATIONS = (
    *(f"__{side}{name}__" for name in ARITHMETIC for side in ("", "r")),
    *("__neg__", "__abs__", "__round__", "__floor__", "__ceil__", "__trunc__"),
)
BITS = tuple(f"__{side}{name}__" for name in ("and", "or", "xor", "lshift", "rshift") for side in ("", "r"))


class Derived(int):
    """A whole number that was computed from sizes, of which it is no sum of multiples."""

    sizes: frozenset[Size]

    def __new__(cls, value: int, sizes: frozenset[Size] = frozenset()) -> Derived:
        made = int.__new__(cls, value)
        made.sizes = sizes
        return made


class Ratio(float):
    """A fraction that was computed from sizes."""

    sizes: frozenset[Size]

    def __new__(cls, value: float, sizes: frozenset[Size] = frozenset()) -> Ratio:
        made = float.__new__(cls, value)
        made.sizes = sizes
        return made


class Number(int):
    """An int that knows its origin; arithmetic that is not a sum of multiples yields a `Derived`."""

    form: Form

    def __new__(cls, value: int, form: Form | None = None) -> Number:
        made = int.__new__(cls, value)
        made.form = form or {}
        return made

    def __add__(self, other: int) -> int:
        return _sum(self, other, 1)

    def __radd__(self, other: int) -> int:
        return _sum(self, other, 1)

    def __sub__(self, other: int) -> int:
        return _sum(self, other, -1)

    def __rsub__(self, other: int) -> int:
        return -self + other

    def __neg__(self) -> int:
        return self * -1

    def __mul__(self, other: Any) -> Any:
        if not _plain(other):
            return _multiplied(self, other)
        return _scaled(self, int.__mul__(self, other), Fraction(int(other)))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        # 7 // 2 * 2 is not 7: a rounded part is no multiple of its origin.
        if not _plain(other) or other == 0 or int.__mod__(self, other):
            return _divided(self, other)
        return _scaled(self, int.__floordiv__(self, other), Fraction(1, int(other)))

    def __round__(self, digits: Any = None) -> int:
        return self


_multiplied, _divided = _deriving(int, "__mul__"), _deriving(int, "__floordiv__")
for _name in (*OPERATIONS, *BITS):
    setattr(Derived, _name, _deriving(int, _name))
    if _name not in vars(Number):
        setattr(Number, _name, _deriving(int, _name))
for _name in OPERATIONS:
    setattr(Ratio, _name, _deriving(float, _name))
for _name in (*COMPARISONS, "__bool__"):  # `if h % 2:`
    for _kind, _base in ((Number, int), (Derived, int), (Ratio, float)):
        if _kind is not Number or _name != "__bool__":  # a size is no less than 1
            setattr(_kind, _name, _noting(_base, _name))
MARKED = (Number, Derived, Ratio)


def _leaving(base: Any, name: str, how: str) -> Any:
    """What gives a plain number or a text, or looks for the number in a dictionary."""
    own = getattr(base, name)

    def leave(self: Any, *others: Any) -> Any:
        frame = sys._getframe(1)
        if is_foreign(frame.f_globals.get("__name__", "")):
            chooses = choice_by(frame, how)
            if chooses is not None:
                DECISIONS.append(Decision(place_in(chooses), sizes_in(self), hash(base(self))))
        return own(self, *others)

    return leave


for _name in ("__int__", "__float__", "__repr__", "__format__", "__hash__"):
    for _kind, _base in ((Number, int), (Derived, int), (Ratio, float)):
        setattr(_kind, _name, _leaving(_base, _name, "key" if _name == "__hash__" else "value"))


def _plain(number: Any) -> bool:
    return type(number) is int


def _scaled(number: Number, value: int, by: Fraction) -> int:
    return Number(value, {origin: part * by for origin, part in number.form.items()}) if by else value


def _sum(left: Number, right: Any, sign: int) -> Any:
    found = int.__add__(left, right) if sign > 0 else int.__sub__(left, right)
    # `c + 1`: the constant has no units that could count it, so the sum is a literal like any other.
    if not isinstance(right, Number):
        if _plain(right) and right == 0:
            return Number(found, left.form)
        return _added(left, right) if sign > 0 else _subtracted(left, right)
    form = dict(left.form)
    for origin, part in right.form.items():
        form[origin] = form.get(origin, Fraction(0)) + sign * part
    return Number(found, {origin: part for origin, part in form.items() if part})


_added, _subtracted = _deriving(int, "__add__"), _deriving(int, "__sub__")

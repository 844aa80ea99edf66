"""Sizes that the code computes, tied to the channels that they count.

`follow`, when positions and a number must shrink together: the numbers that modules keep become places of the graph,
which thinning sets; and `counted_by`, the units of a tensor whose size is such a number. Called by the rules of
operations that are called with sizes.

    x.view(b, self.hidden, h, w)    # the units of x's channels count `self.hidden`
    x[:, : c // 2]                  # position p and position p + c / 2 go together, so that half stays half
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from torch import nn

from compress.graph.coupling import Coupling
from compress.graph.sizes.numbers import Form, Kept, Size
from compress.graph.sizes.origins import number_at
from compress.graph.sizes.settable import counted_place
from compress.graph.units import Ids
from compress.graph.values import Value


def follow(c: Coupling, form: Form, ids: Ids | None) -> None:
    """Whatever goes of these positions, the number stays their count; else they are pinned."""
    # Modules whose head sizes are set one by one follow by themselves; an empty form is a size that nobody gave.
    if c.explicit() or not form:
        return
    known = {origin: units_of(c, origin) for origin in form}
    # The tensor's dimension is fixed: so is every number that the code computes its size from.
    if ids is None:
        for origin, units in known.items():
            if isinstance(origin, Kept):
                c.pin(units, _reason(form))
        return
    if all(units is not None for units in known.values()) and _adds_up(c, form, known, ids):
        return
    # One origin only: of `a + b` nobody can say which of the two lost the channel.
    (origin, share), *others = form.items()
    units = known[origin]
    # The lengths also catch a form that was matched to the wrong argument: `forms_of` goes by values.
    if others or units is None or len(ids) != share * len(units) or len(ids) % share.numerator:
        c.pin(ids, _reason(form))
        return
    _tie(c, ids, units, share)


def counted_by(c: Coupling, form: Form | None, size: int) -> Ids | None:
    """Units of positions whose number is the form; None where they cannot change."""
    if form is None or len(form) != 1 or c.explicit():
        return None
    ((origin, share),) = form.items()
    units = units_of(c, origin)
    if units is None or size != share * len(units):
        return None
    block = _blocks(c, units, share.denominator)
    return np.tile(block, share.numerator)


def units_of(c: Coupling, origin: Kept | Size) -> Ids | None:
    """The units that a number counts; a number of a module that nothing has counted yet gets new ones."""
    if isinstance(origin, Size):
        value = c.sized(origin.serial)
        return None if value is None else value.units[origin.dim]
    module = c.modules[origin.module]
    counted = counted_place(module, origin.path)
    if counted is not None:
        weight = c.parameter(f"{origin.module}.{counted[0]}".lstrip("."))
        return None if weight is None else weight.units[counted[1]]
    return _kept(c, module, origin)


def by_fixed_size(c: Coupling, form: Form | None) -> bool:
    """Whether a number goes by the size of something that no removal changes, such as an image, but an input does."""
    return any(isinstance(origin, Size) and units_of(c, origin) is None for origin in form or ())


def _kept(c: Coupling, module: nn.Module, number: Kept) -> Ids | None:
    """The units that a number of a module counts; new ones when it is first read."""
    place = f"{number.module}.{number.path}".lstrip(".")
    if place not in c.tensors:
        size = number_at(module, number.path)
        if type(size) is not int:  # isinstance would let True pass
            return None
        c.tensors[place] = Value.of((size,), {0: c.units.fresh(size)}, {})
        c.numbers.add(place)
        c.risky.add(number.module)  # the code may compute with it, too
    return c.tensors[place].units[0]


def _adds_up(c: Coupling, form: Form, known: dict[Kept | Size, Ids | None], ids: Ids) -> bool:
    """Whether each unit takes as much from the number as from the positions."""
    whole = math.lcm(*(share.denominator for share in form.values()))
    roots, shares = [c.units.roots(ids)], [np.full(len(ids), -whole)]
    for origin, share in form.items():
        units = known[origin]
        assert units is not None
        roots.append(c.units.roots(units))
        shares.append(np.full(len(units), int(share * whole)))
    _, place = np.unique(np.concatenate(roots), return_inverse=True)
    balance = np.zeros(place.size, dtype=np.int64)  # more than there are roots
    np.add.at(balance, place.ravel(), np.concatenate(shares))
    return not balance.any()


def _tie(c: Coupling, ids: Ids, units: Ids, share: Fraction) -> None:
    """p / q of a number: q equal blocks of what it counts and p of the positions lose the same places."""
    c.units.tie(_blocks(c, units, share.denominator), ids.reshape(share.numerator, -1))


def _blocks(c: Coupling, ids: Ids, count: int) -> Ids:
    return c.units.tie_along(ids.reshape(count, -1), 0) if count > 1 else ids


def _reason(form: Form) -> str:
    names = [
        f"{origin.module or 'the model'}'s {origin.path}" if isinstance(origin, Kept) else "the size of another tensor"
        for origin in form
    ]
    return f"its size is computed from {' and '.join(dict.fromkeys(names))}, which cannot follow"

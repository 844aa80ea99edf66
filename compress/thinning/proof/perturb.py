"""Ordinary values for what is zero, tiny, constant or huge today, so that a proof sees behind it.

`perturb`, which swaps values in by `tensor.data`; the caller puts the old ones back (`verify.restored`). A branch
whose last layer starts at zero, a layer scale of 1e-5 or a bias of -100 in front of a ReLU hides what lies behind it:
masked and thinned network agree today and are different functions once they are trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.own_code import is_foreign
from compress.thinning.recipe import tensors_of

TINY, HUGE = 0.05, 4.0
"""Of the ordinary size: what is smaller gets a value of ordinary size, what is larger as well."""
MANY = 10**7
"""More steps than any code waits for."""
TINY_IN_BUFFER = 1e-3
"""Of a buffer's largest element: buffers hold kernels, tables and masks, of which only zeros count as empty."""


@dataclass(frozen=True)
class Draw:
    """One set of perturbed values.

    Attributes:
        seed: of the random numbers; same seed, same values.
        size: factor to the ordinary size, for networks that overflow.
        buffers: whether buffers are perturbed too.
        switched: counters stand high and flags the other way round: what training switches on later is on. At most so
            many of them lie in one tensor; 0 leaves all as they are.
    """

    seed: int = 0
    size: float = 1.0
    buffers: bool = True
    switched: int = 0


@torch.no_grad()
def perturb(model: nn.Module, draw: Draw, dtype: torch.dtype | None = None) -> None:
    """Give parameters and buffers ordinary values, in new memory; a tensor under several names gets them once.

    The numbers of a module whose class is `bound_to_values` stay: the step of a quantizer belongs to what it rounds.

    Args:
        model: changed in place.
        draw: see there.
        dtype: the type of what is drawn for real parameters; None is that of each.
    """
    source = _Source(draw.seed)
    bound = {
        id(tensor)
        for module in model.modules()
        if getattr(module, "bound_to_values", False)
        for tensor in (*module.parameters(), *module.buffers())
    }
    for tensor in tensors_of(model).values():
        parameter = isinstance(tensor, nn.Parameter)
        numbers = tensor.layout is torch.strided and (tensor.is_floating_point() or tensor.is_complex())
        usable = tensor.numel() and numbers  # the few numbers of a sparse adjacency are kept
        if usable and id(tensor) not in bound and (parameter or draw.buffers):
            values = torch.view_as_real(tensor.data) if tensor.is_complex() else tensor.data
            own = None if tensor.is_complex() else dtype
            new = _parameter(values, draw, source, own) if parameter else _buffer(values, draw, source)
            tensor.data = torch.view_as_complex(new.contiguous()) if tensor.is_complex() else new
    for tensor in switches_of(model, draw.switched):
        tensor.data = ~tensor.data if tensor.dtype == torch.bool else _other_counts(tensor)


def switches_of(model: nn.Module, most: int) -> list[Tensor]:
    """Tensors of up to so many whole numbers or flags that a model's own code keeps, such as the number of the step.

    As a buffer, as an attribute, or in a list or dictionary. Norms count batches, which switches nothing, and what
    quantizers keep belongs to their values. Whole numbers only on a CPU: where one turns out to be an index, it is an
    error there, and the end of the process elsewhere.
    """
    own = [each for each in model.modules() if is_foreign(type(each).__module__)]
    return list({id(each): each for module in own for each in _kept_by(module) if _switches(each, most)}.values())


def _kept_by(module: nn.Module) -> Iterator[Any]:
    yield from (buffer for name, buffer in module._buffers.items() if name != "num_batches_tracked")
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict) and name not in EVERY_MODULE_KEEPS:
            yield from value.values() if isinstance(value, dict) else value


EVERY_MODULE_KEEPS = frozenset(vars(nn.Module()))


def _switches(value: Any, most: int) -> bool:
    if not isinstance(value, Tensor) or not 0 < value.numel() <= most or value.is_meta:
        return False
    whole = not value.is_floating_point() and not value.is_complex()
    return value.dtype == torch.bool or (whole and value.device.type == "cpu")


def _other_counts(tensor: Tensor) -> Tensor:
    """Beyond any threshold, or before all; as far as the type goes."""
    most = min(MANY, torch.iinfo(tensor.dtype).max)
    return torch.where(tensor.data > most // 2, 0, most).to(tensor.dtype)


def ordinary_size(shape: torch.Size) -> float:
    """1 for a vector (a scale, a shift, a gate); 1 / sqrt(fan-in) for a weight."""
    sizes = [size for size in shape if size > 1]
    return 1.0 if len(sizes) < 2 else (torch.Size(sizes).numel() / sizes[0]) ** -0.5


def _parameter(old: Tensor, draw: Draw, source: _Source, dtype: torch.dtype | None) -> Tensor:
    """Elements that are tiny or not finite are drawn anew, all others vary by a half; too large ones shrink."""
    usual, (least, most) = ordinary_size(old.shape), torch.aminmax(old)
    if not bool(least.isfinite() & most.isfinite()):
        old = torch.nan_to_num(old, 0.0, 0.0, 0.0)
        least, most = torch.aminmax(old)
    scale = 1.0
    if usual != 1.0:
        # A weight that is too large is scaled as a whole, so that its elements keep their proportions; those of a
        # vector are drawn anew one by one.
        rms = torch.linalg.vector_norm(old).item() / old.numel() ** 0.5
        scale = usual / rms if rms > HUGE * usual else 1.0
    given, new = old.reshape(-1), torch.empty(old.numel(), dtype=dtype or old.dtype, device=old.device)
    positive = bool(least >= 0) and bool(most > 0)
    # The proof draws for every element of a network: hence in parts that stay in the processor's cache, and in buffers
    # of which the memory is there already; fresh memory costs more than the arithmetic. And with 0 and 1 in numbers of
    # the same type: torch vectorizes neither comparisons that give flags nor the choice by them.
    buffers = torch.empty(3, PART, dtype=old.dtype, device=old.device)
    for part, drawn in source.parts(given):
        values, (fresh, factors, odd) = given[part], buffers[:, : len(drawn)]
        torch.abs(values, out=odd)
        huge = odd > HUGE if usual == 1.0 else None
        odd.lt_(TINY * usual)
        if huge is not None:
            odd.masked_fill_(huge, 1)
        torch.abs(drawn, out=factors)
        torch.mul(factors if positive else drawn, usual * draw.size, out=fresh)
        if scale != 1.0:
            factors *= scale
        new[part] = torch.lerp(factors.mul_(values), fresh, odd, out=fresh)  # with a weight of 0 or 1 it is exact
    return new.reshape(old.shape)


PART = 1 << 15


def _buffer(old: Tensor, draw: Draw, source: _Source) -> Tensor:
    """Elements that are zero, or tiny beside the largest, are drawn anew; what is constant varies by a half.

    A constant that is huge is drawn anew as well.
    """
    finite = old.isfinite()
    clean = torch.where(finite, old, 0)
    largest = clean.abs().max()
    tiny = finite & (clean.abs() <= torch.where(largest < TINY_IN_BUFFER, TINY, TINY_IN_BUFFER * largest))
    fresh, factors = _random(old, source, positive=bool(clean.min() >= 0))
    constant = bool((clean == clean.flatten()[0]).all() & finite.all())
    odd = tiny | (constant & (clean.abs() > HUGE))
    return torch.where(odd, fresh * draw.size, old * factors if constant else old)


def _random(like: Tensor, source: _Source, positive: bool) -> tuple[Tensor, Tensor]:
    """New numbers, of both signs unless they must be positive (a variance); and factors, which are positive."""
    drawn = source.like(like)
    factors = drawn.abs()
    return (factors.clone() if positive else drawn), factors


class _Source:
    """Random numbers of size 0.5 to 1.5 and of both signs: a million, over and over; drawing costs more than a pass.

    Their number is prime, so that no two rows of a weight are alike; each tensor starts at another one.
    """

    COUNT = 1_000_003

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(self.COUNT, generator=self._generator).mul_(2).sub_(1)
        numbers = torch.copysign(drawn.abs().add_(0.5), drawn)
        self._numbers = torch.cat([numbers, numbers[:PART]])  # so that a part may begin at each of them

    def parts(self, flat: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Parts of a flat tensor, and numbers of their type and place for each, to be read and not written."""
        if (self._numbers.dtype, self._numbers.device) != (flat.dtype, flat.device):
            self._numbers = self._numbers.to(flat)
        start = int(torch.randint(self.COUNT, (1,), generator=self._generator))
        for first in range(0, len(flat), PART):
            part, place = slice(first, min(first + PART, len(flat))), (start + first) % self.COUNT
            yield part, self._numbers[place : place + part.stop - first]

    def like(self, tensor: Tensor) -> Tensor:
        """Numbers of the shape, type and place of a tensor, to be read and not written."""
        found = [drawn for _, drawn in self.parts(tensor.reshape(-1))]
        return (found[0] if len(found) == 1 else torch.cat(found)).reshape(tensor.shape)

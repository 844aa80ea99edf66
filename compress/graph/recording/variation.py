"""What a pass depends on beside inputs, weights and mode: draws from Python's and NumPy's generators, memory layout.

`noted`, around every pass: the generators start from a known state, and who draws or asks for the layout is noted.
`variations`: under what a proof has to compare once more; `under` one of them, and `laid_out`, the inputs then.
"""

from __future__ import annotations

import contextlib
import random
import sys
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import some
from compress.graph.own_code import is_foreign, own_classes


@dataclass(frozen=True)
class Variation:
    """One way in which the same network can be run.

    Attributes:
        draw: which of `FIRST` the first number is that the generators give.
        other_layout: images lie in memory channels last, or if they do already, channels first.
    """

    draw: int = 0
    other_layout: bool = False


FIRST = (0.3, 0.01, 0.99, 0.6, 0.15, 0.45, 0.7, 0.8)
"""What `random.random()` gives first, about: rare branches at both ends, and each of up to six equal choices."""
SEEDS = (730, 1751, 1470, 1522, 1899, 1215, 599, 1640)
"""Seeds with which both generators begin near `FIRST`, of the first two thousand."""

DRAWN: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
LAYOUT_ASKED: MutableMapping[int, nn.Module] = weakref.WeakValueDictionary()
"""By id, the models that drew from a global generator, and those whose code asked how an image lies in memory."""
ASKING = ("is_contiguous", "stride")
_current = [Variation()]


@contextlib.contextmanager
def under(variation: Variation) -> Iterator[None]:
    """Inside, passes run in another way."""
    _current.append(variation)
    try:
        yield
    finally:
        _current.pop()


def variations(model: nn.Module) -> list[Variation]:
    """Under what a model that has run may take another path than it took; none for nearly all."""
    draws = range(1, len(FIRST)) if DRAWN.get(id(model)) is model else ()
    layouts = [Variation(other_layout=True)] if LAYOUT_ASKED.get(id(model)) is model else []
    return [*(Variation(draw) for draw in draws), *layouts]


def drawing_notes(model: nn.Module) -> tuple[str, ...]:
    """What to say of a network that draws from a global generator: a sentence, or none."""
    if DRAWN.get(id(model)) is not model:
        return ()
    drawing = {cls for cls in own_classes(model) if any(map(_draws, vars(cls).values()))}
    places = [repr(name) for name, each in model.named_modules() if name and type(each) in drawing]
    where = f"in module {some(places, 3)}" if places else "in its own forward, or in what that calls"
    return (
        f"the code draws from Python's or NumPy's random generator, {where}, and may choose its path by that: "
        f"{len(FIRST)} draws are compared, what it does for others is not proved",
    )


def _draws(function: Any) -> bool:
    """Whether the code of a method names a global generator."""
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    if code is None:
        return False
    named = [known.get(name) for name in code.co_names]
    modules = [random, np.random] + [np] * ("random" in code.co_names)
    return any(
        any(each is module for module in modules)
        or isinstance(getattr(each, "__self__", None), random.Random)
        or getattr(each, "__module__", None) in ("numpy.random", "numpy.random.mtrand")
        for each in named
        if each is not None
    )


@contextlib.contextmanager
def noted(model: nn.Module) -> Iterator[None]:
    """Inside, the global generators start from the state of the current variation; they are put back afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(SEEDS[_current[-1].draw])
    np.random.seed(SEEDS[_current[-1].draw])
    start = _states()
    try:
        with contextlib.ExitStack() as stack:
            for name in ASKING:
                stack.enter_context(_asked(name, model))
            yield
    finally:
        if _states() != start:
            DRAWN[id(model)] = model
        random.setstate(before[0])
        np.random.set_state(before[1])


def _states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(keys).tobytes(), *rest


@contextlib.contextmanager
def _asked(name: str, model: nn.Module) -> Iterator[None]:
    """Inside, foreign code that calls this method of an image or a volume is noted."""
    own: Callable[..., Any] = getattr(torch.Tensor, name)
    hidden = vars(torch.Tensor).get(name)

    def read(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if is_foreign(sys._getframe(1).f_globals.get("__name__", "")) and len(tensor.shape) in CHANNELS_LAST:
            LAYOUT_ASKED[id(model)] = model
        return own(tensor, *args, **kwargs)

    setattr(torch.Tensor, name, read)
    try:
        yield
    finally:
        if hidden is None:
            delattr(torch.Tensor, name)
        else:
            setattr(torch.Tensor, name, hidden)


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid_out(values: Any) -> Any:
    """Images and volumes as the current variation has them in memory."""
    if not _current[-1].other_layout:
        return values

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() not in CHANNELS_LAST or leaf.layout is not torch.strided:
            return leaf
        return leaf.contiguous(memory_format=CHANNELS_LAST[leaf.dim()]) if leaf.is_contiguous() else leaf.contiguous()

    return pytree.tree_map(other, values)

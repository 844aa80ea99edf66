"""Parts of a network that drop at random: they keep everything while two passes are compared.

`NoDropout`, under which no operation drops anything, and `only_drops`, for layers of other code such as stochastic
depth, which are no reason for a trace in training mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.graph.modes import overrides_train

BY_DIFFERENCES = 2  # `compute_mode="donot_use_mm_for_euclid_dist"` of torch.cdist
DRAWS = ("aten.bernoulli", "aten.bernoulli_", "aten.native_dropout")


class NoDropout(TorchDispatchMode):
    """Random masks keep everything, whatever operation draws them, outside the branches of `torch.cond`.

    Distances are computed exactly, since what rounds to nearly zero would differ in two passes.
    """

    supports_higher_order_operators = True
    before_write: Callable[[Tensor], None] | None = None
    """Called with each tensor that an operation is about to write into."""
    is_over = False
    """Set once the network has run: what still comes is the work of those who watch it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Below autograd, dropout of all kinds has become one of these
        # draws, so that no list of dropout functions is needed.
        name = _name(func)
        if self.before_write is not None:
            self._note_writes(func, args, kwargs or {})
        if name in DRAWS:
            self.drawn(name, args)
        if name == "aten.bernoulli_":
            return args[0].fill_(1)
        if name == "aten.bernoulli":
            return torch.ones_like(args[0])
        if name == "aten.native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name in ("aten.rrelu_with_noise", "aten.rrelu_with_noise_"):
            args = args[:4]  # without `training` the slope is the mean of those that are drawn
        if name == "aten._euclidean_dist":
            # By products of matrices, which leave a root of rounding errors where a point is held against itself.
            func, args = torch.ops.aten._cdist_forward.default, (*args, 2.0, BY_DIFFERENCES)
        return self.call(name, func, args, kwargs or {})

    def _note_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        assert self.before_write is not None
        for place in _written(func):
            given = args[place] if isinstance(place, int) and place < len(args) else kwargs.get(place)
            for tensor in given if isinstance(given, list | tuple) else [given]:
                if isinstance(tensor, Tensor):
                    self.before_write(tensor)

    def drawn(self, name: str, args: Any) -> None:
        """A draw that did not happen."""

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Any other operation."""
        return func(*args, **kwargs)


@functools.cache
def _name(func: Any) -> str:
    return str(getattr(func, "overloadpacket", ""))  # `torch.cond` has none


@functools.cache
def _written(func: Any) -> tuple[int | str, ...]:
    """The arguments that an operation writes into: their places, or the names of those that have none."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    given = enumerate(schema.arguments)
    return tuple(
        each.name if each.kwarg_only else place
        for place, each in given
        if each.alias_info is not None and each.alias_info.is_write
    )


@torch.no_grad()
def only_drops(module: nn.Module) -> bool:
    """Whether a layer without weights gives in training mode what it gives in eval mode, or a fixed multiple of it.

    Found by running it on numbers, dropping nothing: stochastic depth divides by the share that it keeps. A multiple
    that depends on the numbers or on their count (a norm) is another function.
    """
    if any(True for _ in module.children()) or module._parameters or module._buffers or overrides_train(type(module)):
        return False
    attributes = dict(vars(module))
    shares: list[float] = []
    try:
        for shape in SHAPES:
            try:
                shares.append(_share(module, shape))
            except Exception:
                if len(shape) == 3:  # of other shapes it may accept only some
                    return False
        return all(abs(share / shares[0] - 1) < 1e-5 for share in shares)
    except Exception:  # any code may run here, and this is not what it is for
        return False
    finally:
        vars(module).clear()
        vars(module).update(attributes)


SHAPES = ((2, 3, 4), (3, 5, 8), (2, 6), (2, 6, 4, 4), (1, 4, 4, 6))


def _share(module: nn.Module, shape: tuple[int, ...]) -> float:
    """What the output is multiplied with in training mode; NaN if it is not a multiple."""
    x = torch.linspace(-1, 1 + shape[1] / 2, math.prod(shape)).reshape(shape)
    with torch.random.fork_rng(devices=[]), NoDropout():
        # nn.Module.train, since a class may override it, and may return nothing.
        given, kept = (nn.Module.train(module, mode)(x.clone()) for mode in (False, True))
    share = (kept.flatten()[0] / given.flatten()[0]).item()
    return share if torch.allclose(kept, given * share, atol=1e-6) else math.nan

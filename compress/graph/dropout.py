"""Parts of a network that drop at random: they keep everything while two passes are compared.

`NoDropout`, under which no operation drops anything, and `only_drops`, for layers of other code such as stochastic
depth, which are no reason for a trace in training mode.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class NoDropout(TorchDispatchMode):
    """Random masks keep everything, whatever operation draws them, outside the branches of `torch.cond`."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Below autograd, dropout of all kinds has become one of these
        # draws, so that no list of dropout functions is needed.
        name = _name(func)
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


@functools.cache
def _name(func: Any) -> str:
    return str(getattr(func, "overloadpacket", ""))  # `torch.cond` has none


@torch.no_grad()
def only_drops(module: nn.Module) -> bool:
    """Whether a layer without weights gives in training mode what it gives in eval mode, or a multiple of it.

    Found by running it on numbers, dropping nothing: stochastic depth divides by the share that it keeps.
    """
    if any(True for _ in module.children()) or module._parameters or module._buffers:
        return False
    x, flag = torch.linspace(-1, 1, 24).reshape(2, 3, 4), module.training
    try:
        with torch.random.fork_rng(devices=[]), NoDropout():
            # nn.Module.train, since a class may override it, and may return nothing.
            given, kept = (nn.Module.train(module, mode)(x.clone()) for mode in (False, True))
            return bool(torch.allclose(kept, given * (kept[0, 0, 0] / given[0, 0, 0]), atol=1e-6))
    except Exception:  # any code may run here, and this is not what it is for
        return False
    finally:
        module.training = flag

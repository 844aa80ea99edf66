"""A network put into training or eval mode for a while, whatever its own code does about that; or run uncompiled.

Also `uncached_autocast`, for who changes weights between two runs of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Inside, the model is as `model.train(training)` makes it; afterwards as before.

    A `train` of the model's own may set further attributes, exchange modules or merge weights: that is undone, too.
    """
    modules = list(model.modules())
    flags = [(module, module.training) for module in modules]
    own = any(overrides_train(type(module)) for module in modules)
    tensors = [*model.parameters(), *model.buffers()] if own else []
    values = [(tensor, tensor.data, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    attributes = [(each, copied) for module in modules if own for each, copied in _attributes(module)]
    changed: list[tuple[dict[str, Any], str, Any]] = []
    try:
        try:
            model.train(training)
        finally:
            changed += [
                (each, key, before.get(key, _ABSENT))
                for each, before in attributes
                for key in {*each, *before}
                if key != "training" and each.get(key, _ABSENT) is not before.get(key, _ABSENT)
            ]
        yield
    finally:
        for each, key, value in changed:
            if value is _ABSENT:
                each.pop(key, None)
            else:
                each[key] = value
        for tensor, data, value, gradients in values:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if tensor.requires_grad is not gradients:
                tensor.requires_grad_(gradients)
            if not tensor.is_meta and not torch.equal(tensor, value):
                with torch.no_grad():
                    tensor.copy_(value)
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Inside, what was compiled (`model.compile()`, `@torch.compile`) runs as it was written.

    Compiled code hides its operations from who looks on, and the compiler crashes on tensors without numbers.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def uncached_autocast() -> Iterator[None]:
    """Inside, a surrounding `torch.autocast` casts weights anew each time; afterwards it has forgotten what it kept.

    It keeps its casts of weights by the tensor, until its outermost block ends: what is written into a weight there
    would not be seen.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
        torch.clear_autocast_cache()


def overrides_train(cls: type) -> bool:
    """Whether a class has a `train` or `eval` of its own."""
    return getattr(cls, "train", None) is not nn.Module.train or getattr(cls, "eval", None) is not nn.Module.eval


def _attributes(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    places = [vars(module), module._parameters, module._buffers, module._modules]
    return [(place, dict(place)) for place in places]


_ABSENT = object()

"""What a tracer leaves behind: tensors without numbers, which the model's code keeps for later.

`without_leaks`, used around every trace. A table that `forward` makes once, and keeps in an attribute, a dictionary, an
object of its own, its class or a cached function, would be one of the tracer's tensors in every later pass.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from compress.graph.own_code import own_classes

DEPTH = 5
"""How deep in containers and objects tensors are looked for."""
TRACED = (FakeTensor, FunctionalTensor)


@contextlib.contextmanager
def without_leaks(model: nn.Module) -> Iterator[None]:
    """All that modules keep is what it was before; their classes too, if one of the tracer's tensors is left in one.

    All of it, since a number elsewhere may say that a table exists: `if self.shape != shape: self.anchors = ...`. And
    torch.export puts back tensors by itself, and no numbers.
    """
    classes = own_classes(model)
    kept: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _keep(vars(module), kept, DEPTH)
    attributes = [(cls, dict(vars(cls))) for cls in classes]
    for _, own in attributes:
        for value in own.values():
            _keep(value, kept, DEPTH)
    caches = [(cache, cache.cache_info().currsize) for cache in _caches(classes)]
    try:
        yield
    finally:
        for container, before in kept.values():
            _put_back(container, before)
        for cls, own in attributes:
            if any(value is not own.get(key) and _is_traced(value, DEPTH) for key, value in vars(cls).items()):
                _put_back_attributes(cls, own)
        for cache, size in caches:
            if cache.cache_info().currsize != size:
                cache.cache_clear()


def _keep(value: Any, kept: dict[int, tuple[Any, Any]], depth: int) -> None:
    """Note what is in a container, and in the containers and objects in it."""
    items = _items(value)
    if items is None or id(value) in kept or not depth:
        return
    if not isinstance(value, tuple):
        kept[id(value)] = (value, value.copy())
    for item in items:
        _keep(item, kept, depth - 1)


def _items(value: Any) -> list[Any] | None:
    """What is in a container; None for anything else. An object of the model's code is the dictionary of its own."""
    if isinstance(value, dict):
        return [_opened(each) for each in value.values()]
    if isinstance(value, list | tuple | set | collections.deque):
        return [_opened(each) for each in value]
    return None


def _opened(value: Any) -> Any:
    plain = isinstance(value, Tensor | nn.Module | type) or callable(value) or not hasattr(value, "__dict__")
    own = not type(value).__module__.startswith(("torch.", "builtins", "collections", "logging"))
    return value if plain or not own else vars(value)


def _is_traced(value: Any, depth: int) -> bool:
    if isinstance(value, TRACED):
        return True
    return depth > 0 and any(_is_traced(each, depth - 1) for each in _items(_opened(value)) or ())


def _put_back(container: Any, before: Any) -> None:
    container.clear()
    container.update(before) if isinstance(container, dict | set) else container.extend(before)


def _put_back_attributes(cls: type, before: dict[str, Any]) -> None:
    for key, value in dict(vars(cls)).items():
        if key not in before:
            delattr(cls, key)
        elif value is not before[key]:
            setattr(cls, key, before[key])


def _caches(classes: list[type]) -> list[Any]:
    """The cached functions beside the classes, and their cached methods."""
    places = [dict(vars(cls)) for cls in classes]
    places += [vars(sys.modules[name]) for name in {cls.__module__ for cls in classes} if name in sys.modules]
    found = {id(value): value for place in places for value in place.values() if isinstance(value, _CACHED)}
    return list(found.values())


_CACHED = type(functools.lru_cache(lambda: None))

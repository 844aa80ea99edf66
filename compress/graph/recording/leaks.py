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
_ABSENT = object()


@contextlib.contextmanager
def without_leaks(model: nn.Module) -> Iterator[None]:
    """Whatever holds one of the tracer's tensors at the end gets back what it held before."""
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
        for cls, own in attributes:
            for key, value in dict(vars(cls)).items():
                if value is not own.get(key) and _is_traced(value, DEPTH):
                    setattr(cls, key, own[key]) if key in own else delattr(cls, key)
        for container, before in kept.values():
            _put_back(container, before)
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
    if isinstance(container, dict):
        for key, value in list(container.items()):
            old = before.get(key, _ABSENT)
            if value is old or not _is_traced(value, DEPTH):
                continue
            if old is _ABSENT:
                del container[key]
            else:
                container[key] = old
    elif any(_is_traced(each, DEPTH) for each in container):
        container.clear()
        container.update(before) if isinstance(container, set) else container.extend(before)


def _caches(classes: list[type]) -> list[Any]:
    """The cached functions beside the classes, and their cached methods."""
    places = [dict(vars(cls)) for cls in classes]
    places += [vars(sys.modules[name]) for name in {cls.__module__ for cls in classes} if name in sys.modules]
    found = {id(value): value for place in places for value in place.values() if isinstance(value, _CACHED)}
    return list(found.values())


_CACHED = type(functools.lru_cache(lambda: None))

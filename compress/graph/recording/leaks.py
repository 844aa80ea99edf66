"""What a pass leaves behind: state that the model's code keeps, and a tracer's tensors, which have no numbers.

`kept_state`, used around passes that nobody asked for, puts back what lists, dictionaries and plain tensors held.
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

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from compress.graph.own_code import own_classes

DEPTH = 5
"""How deep in containers and objects tensors are looked for."""
ATOMS = frozenset({int, float, bool, str, type(None)})  # most of what modules keep, and nothing is in them
TRACED = (FakeTensor, FunctionalTensor)


@contextlib.contextmanager
def without_leaks(model: nn.Module) -> Iterator[None]:
    """All that modules keep is what it was before; their classes too, if one of the tracer's tensors is left in one.

    All of it, since a number elsewhere may say that a table exists: `if self.shape != shape: self.anchors = ...`. And
    torch.export puts back tensors by itself, and no numbers.
    """
    classes = own_classes(model)
    kept: dict[int, tuple[Any, Any]] = {}
    attributes = [(cls, dict(vars(cls))) for cls in classes]
    for _, own in attributes:
        for value in own.values():
            _keep(value, kept, DEPTH)
    caches = [(cache, cache.cache_info().currsize) for cache in _caches(classes)]
    try:
        with kept_state(model):
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


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """What modules keep in containers, in objects of their own and in plain tensors is afterwards as before.

    Containers stay the same objects. A recurrent state in a list, a running mean in a dictionary or in a tensor that is
    no buffer: neither parameters nor buffers, whose values are left alone here.
    """
    kept: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _keep(vars(module), kept, DEPTH)
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    held = [each for container, _ in kept.values() for each in _tensors_in(container, DEPTH)]
    plain = {id(each): each for each in held if id(each) not in registered and not isinstance(each, TRACED)}
    values = [(each, each.data, each.data.clone()) for each in plain.values() if not each.is_meta]
    try:
        yield
    finally:
        for container, before in kept.values():
            _put_back(container, before)
        for tensor, data, value in values:
            _put_back_values(tensor, data, value)


def _tensors_in(value: Any, depth: int) -> Iterator[Tensor]:
    """The tensors that are entries of a container, and of tuples in it, which are not kept by themselves."""
    for item in _items(value) or ():
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, tuple) and depth:
            yield from _tensors_in(item, depth - 1)


def _put_back_values(tensor: Tensor, data: Tensor, value: Tensor) -> None:
    if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape or tensor.dtype != data.dtype:
        tensor.data = data
    # Memory that several elements share cannot be written as a whole, neither here nor by the model's code.
    if not torch.equal(data, value):
        with contextlib.suppress(RuntimeError), torch.inference_mode(data.is_inference()):
            data.copy_(value)


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
        value = value.values()
    elif not isinstance(value, list | tuple | set | collections.deque):
        return None
    return [_opened(each) for each in value if type(each) not in ATOMS]


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

"""What a pass leaves behind: state that the model's code keeps, and a tracer's tensors, which have no numbers.

`kept_state`, used around passes that nobody asked for, puts back what lists, dictionaries and plain tensors held.
`without_leaks`, used around every trace. A table that `forward` makes once, and keeps in an attribute, a dictionary, an
object of its own, its class or a cached function, would be one of the tracer's tensors in every later pass.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import torch
import torch.nn.modules.module as every_module
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
    attributes = [(cls, dict(vars(cls))) for cls in classes]
    for _, own in attributes:
        _keep(list(own.values()), kept, {}, DEPTH)
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
    tensors: dict[int, Tensor] = {}
    modules = list(model.modules())
    for module in modules:
        _keep(vars(module), kept, tensors, DEPTH)
    for hook in _hooks(modules):
        _keep_of_hook(hook, kept, tensors)
    registered = {
        id(each) for module in modules for own in (module._parameters, module._buffers) for each in own.values()
    }
    plain = [each for key, each in tensors.items() if key not in registered and not isinstance(each, TRACED)]
    values = [
        (each, each.data, each.data.clone()) for each in plain if not each.is_meta and each.layout is torch.strided
    ]
    try:
        yield
    finally:
        for container, before in kept.values():
            _put_back(container, before)
        for tensor, data, value in values:
            _put_back_values(tensor, data, value)


def _put_back_values(tensor: Tensor, data: Tensor, value: Tensor) -> None:
    if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape or tensor.dtype != data.dtype:
        tensor.data = data
    # Memory that several elements share cannot be written as a whole, neither here nor by the model's code.
    if not torch.equal(data, value):
        with contextlib.suppress(RuntimeError), torch.inference_mode(data.is_inference()):
            data.copy_(value)


def _keep(value: Any, kept: dict[int, tuple[Any, Any]], tensors: dict[int, Tensor], depth: int) -> None:
    """Note what is in a container, in the containers and objects in it, and which tensors all of them hold."""
    if id(value) in kept:
        return
    if not isinstance(value, tuple):
        kept[id(value)] = (value, value.copy())
    for item in _items(value):
        if type(item) in NUMBERS_AND_TEXT:
            continue
        kind = _kind(type(item))
        if kind is _Kind.TENSOR:
            tensors[id(item)] = item
        elif kind is _Kind.CONTAINER and not item:  # the hooks of a module, nearly always
            if not isinstance(item, tuple):
                kept.setdefault(id(item), (item, ()))
        elif kind is not _Kind.CLOSED and depth > 1:
            _keep(item if kind is _Kind.CONTAINER else vars(item), kept, tensors, depth - 1)


def _hooks(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """What runs around the modules' forward, and around every module's."""
    for each in modules:
        yield from (*each._forward_pre_hooks.values(), *each._forward_hooks.values())
    yield from (*every_module._global_forward_pre_hooks.values(), *every_module._global_forward_hooks.values())


def _keep_of_hook(hook: Any, kept: dict[int, tuple[Any, Any]], tensors: dict[int, Tensor]) -> None:
    """The same of a hook: what the variables around the function hold, or the attributes of its object."""
    while isinstance(hook, functools.partial):
        _keep((*hook.args, *hook.keywords.values()), kept, tensors, DEPTH)
        hook = hook.func
    owner = getattr(hook, "__self__", hook)
    if not isinstance(owner, nn.Module | types.FunctionType | types.ModuleType) and hasattr(owner, "__dict__"):
        _keep(vars(owner), kept, tensors, DEPTH)
    for cell in getattr(getattr(hook, "__func__", hook), "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # nothing is in it yet
            kept[id(cell)] = (cell, cell.cell_contents)
            _keep((cell.cell_contents,), kept, tensors, DEPTH)


def _items(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


class _Kind(enum.Enum):
    """What a value's type says of it."""

    TENSOR = enum.auto()
    CONTAINER = enum.auto()
    OBJECT = enum.auto()  # of the model's code: the dictionary of its attributes is looked into
    CLOSED = enum.auto()


NUMBERS_AND_TEXT = frozenset({int, float, bool, complex, str, bytes, type(None)})
_KINDS: MutableMapping[type, _Kind] = weakref.WeakKeyDictionary()  # a pass meets thousands of values of a few types
_LASTING: dict[type, _Kind] = {}  # of types that live as long as the process: a weak dictionary takes ten times as long


def _kind(cls: type) -> _Kind:
    found = _LASTING.get(cls)
    if found is None:
        found = _KINDS.get(cls)
    if found is None:
        lasts = cls.__module__.partition(".")[0] in ("builtins", "collections", "torch")
        found = (_LASTING if lasts else _KINDS)[cls] = _kind_of(cls)
    return found


def _kind_of(cls: type) -> _Kind:
    if issubclass(cls, Tensor):
        return _Kind.TENSOR
    if issubclass(cls, dict | list | tuple | set | collections.deque):
        return _Kind.CONTAINER
    is_called = any("__call__" in vars(base) for base in cls.__mro__)  # hasattr would find the metaclass's
    closed = is_called or issubclass(cls, type) or not cls.__dictoffset__
    foreign = cls.__module__.startswith(("torch.", "builtins", "collections", "logging"))
    return _Kind.CLOSED if closed or foreign else _Kind.OBJECT


def _is_traced(value: Any, depth: int) -> bool:
    kind = _kind(type(value))
    if kind is _Kind.TENSOR:
        return isinstance(value, TRACED)
    if kind is _Kind.CLOSED or not depth:
        return False
    return any(_is_traced(each, depth - 1) for each in _items(value if kind is _Kind.CONTAINER else vars(value)))


def _put_back(container: Any, before: Any) -> None:
    if isinstance(container, types.CellType):
        container.cell_contents = before
        return
    if not container and not before:  # most are: the hooks of a module
        return
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

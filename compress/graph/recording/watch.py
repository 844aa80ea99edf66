"""What runs beside a model's own classes and asks for the mode: helpers, however deep, and objects that are called.

`watched`, around a pass in eval mode; what it finds is noted for `asks_for_training` and `asks_for_gradients`, which
otherwise judge the words in the source of the model's classes.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from compress.graph.own_code import (
    GRADIENTS_ASKED,
    INFERENCE_ASKED,
    SHARES_SET,
    TRAINING_ASKED,
    WATCHED,
    is_foreign,
    own_classes,
)


@contextlib.contextmanager
def watched(model: nn.Module, again: bool = True) -> Iterator[None]:
    """Inside, note whether code beside the model's classes reads a training flag, and any code whether gradients run.

    Code that hooks gradients counts as well, by whatever name it is called.

    Args:
        model: what runs inside.
        again: False does nothing where the model has been watched before.
    """
    known = WATCHED.get(id(model)) is model
    if isinstance(vars(nn.Module).get("training"), _Flag) or (known and not again):
        yield
        return
    WATCHED[id(model)] = model
    if not known:  # another model may have been there
        TRAINING_ASKED.pop(id(model), None)
        GRADIENTS_ASKED.pop(id(model), None)
        INFERENCE_ASKED.pop(id(model), None)
        SHARES_SET.pop(id(model), None)
    judged = frozenset().union(*(_codes_of(cls) for cls in own_classes(model)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_swapped(nn.Module, "training", _Flag(model, judged)))
        for name in TELLING:
            stack.enter_context(_swapped(torch.Tensor, name, _telling(name, model)))
        for kind, name in HOOKING:
            stack.enter_context(_swapped(kind, name, _hooking(vars(kind)[name], model)))
        stack.enter_context(_swapped(nn.Module, "__setattr__", _setting(nn.Module.__setattr__, model)))
        stack.enter_context(_swapped(builtins, "vars", _looking(model)))
        asked = {torch.is_grad_enabled: GRADIENTS_ASKED, torch.is_inference_mode_enabled: INFERENCE_ASKED}
        for owner, name, function in _holders(tuple(asked)):
            stack.enter_context(_swapped(owner, name, _noting(function, model, asked[function])))
        yield


@contextlib.contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class _Flag:
    """In the place of `nn.Module.training`: the module's own flag, and a note of who reads it."""

    def __init__(self, model: nn.Module, judged: frozenset[CodeType]) -> None:
        self._model, self._judged = model, judged

    def __get__(self, module: Any, owner: Any = None) -> Any:
        if module is None or "training" not in vars(module):
            raise AttributeError("training")
        frame = sys._getframe(1)
        if _runs_foreign(frame) and frame.f_code not in self._judged:
            TRAINING_ASKED[id(self._model)] = self._model
        return vars(module)["training"]

    def __set__(self, module: Any, value: Any) -> None:
        vars(module)["training"] = value

    def __delete__(self, module: Any) -> None:
        del vars(module)["training"]


TELLING = ("requires_grad", "grad_fn", "is_leaf", "grad")
"""Attributes of a tensor that tell whether gradients are wanted or there, or lead to the nodes that compute them."""
HOOKING = (
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "register_post_accumulate_grad_hook"),
    (torch.autograd.graph.saved_tensors_hooks, "__enter__"),
)
"""What changes gradients; whether it is called where none are wanted, and fails, or not."""


def _telling(name: str, model: nn.Module) -> property:
    own: Any = getattr(torch._C.TensorBase, name)

    def read(tensor: Any) -> Any:
        frame = sys._getframe(1)
        if _runs_foreign(frame) or frame.f_globals.get("__name__") == "torch.autograd.graph":
            GRADIENTS_ASKED[id(model)] = model
        return own.__get__(tensor)

    return property(read, lambda tensor, value: own.__set__(tensor, value))


def _hooking(own: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    @functools.wraps(own)
    def hooked(owner: Any, *args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__") != "torch.utils.checkpoint":  # it computes them again
            GRADIENTS_ASKED[id(model)] = model
        return own(owner, *args, **kwargs)

    return hooked


def _setting(own: Callable[..., None], model: nn.Module) -> Callable[..., None]:
    """In the place of `nn.Module.__setattr__`: notes where code sets what a layer drops, `self.drop.p = ...`.

    A fraction may be that by any name: `self.drop.rate`, `self.keep`.
    """

    @functools.wraps(own)  # its module too, by which `settable` knows torch's own
    def noted(module: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, float) or (isinstance(value, int) and (name == "p" or "drop" in name)):
            SHARES_SET[id(model)] = model
        own(module, name, value)

    return noted


def _looking(model: nn.Module) -> Callable[..., Any]:
    """In the place of `vars`: notes that code looks into a module, where it may find the flag."""
    own = vars

    def looked(*objects: Any) -> Any:
        frame = sys._getframe(1)
        if any(isinstance(each, nn.Module) for each in objects) and _runs_foreign(frame):
            TRAINING_ASKED[id(model)] = model
        return own(*objects) if objects else frame.f_locals

    return looked


def _noting(own: Callable[[], bool], model: nn.Module, asked: MutableMapping[int, nn.Module]) -> Callable[[], bool]:
    def read() -> bool:
        if _runs_foreign(sys._getframe(1)):
            asked[id(model)] = model
        return own()

    return read


def _holders(functions: Sequence[Any]) -> list[tuple[ModuleType, str, Any]]:
    """torch, and the modules of other code that have imported one of its functions, with the name that it has there."""
    known = {id(each): each for each in functions}
    others = [each for name, each in list(sys.modules.items()) if name.partition(".")[0] not in NO_NETWORKS]
    found = [(torch, each.__name__, each) for each in functions]
    for module in (each for each in others if isinstance(each, ModuleType)):
        found += [(module, name, known[id(value)]) for name, value in vars(module).items() if id(value) in known]
    return found


NO_NETWORKS = {*sys.stdlib_module_names, "torch", "compress", "numpy", "sympy", "scipy", "pandas", "onnx"} - {
    "__main__"
}
"""Packages in which no code of a network stands: it takes time to look through all that is imported."""


def _runs_foreign(frame: FrameType) -> bool:
    """Whether other code runs in a frame than torch's and this library's."""
    return is_foreign(frame.f_globals.get("__name__", ""))


@functools.cache
def _codes_of(cls: type) -> frozenset[CodeType]:
    """The code of all methods that stand in a class, of what they are decorated with, and of functions inside."""
    found: set[CodeType] = set()
    open_ends: list[Any] = list(vars(cls).values())
    while open_ends:
        each = open_ends.pop()
        if isinstance(each, CodeType) and each not in found:
            found.add(each)
            open_ends += each.co_consts
        elif isinstance(each, property):
            open_ends += [each.fget, each.fset]
        elif isinstance(each, staticmethod | classmethod):
            open_ends.append(each.__func__)
        elif inspect.isfunction(each) and each.__code__ not in found and _stands_in(each, cls):
            open_ends.append(each.__code__)
            open_ends += [getattr(each, "__wrapped__", None)]
    return frozenset(found)


def _stands_in(function: Any, cls: type) -> bool:
    """Whether the source of a class holds a function; not so `forward = helper`, or what was set later."""
    return bool(function.__qualname__.startswith(f"{cls.__qualname__}."))

"""Code that asks whether it is compiled or exported: `torch.compiler.is_compiling()`, and its like.

`asked_whether`, by the words in the code of a model and of the functions that it calls, and `told`, inside which the
answer is yes. A trace answers yes, as torch.export does; who runs the network as it is gets no.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.onnx._internal.exporter import _flags

from compress.graph.own_code import is_foreign, own_classes
from compress.graph.recording.sources import source_of

COMPILED, EXPORTED = "compiled", "exported"
WORDS = {
    COMPILED: re.compile(r"is_\w*compiling|_is_compiling_flag"),
    EXPORTED: re.compile(r"is_\w*exporting|is_in_onnx_export|_is_exporting_flag"),
}


def asked_whether(model: nn.Module) -> tuple[str, ...]:
    """`COMPILED` and `EXPORTED`, where some code of a model, or what it calls, asks whether it is."""
    hooks = [
        each
        for module in model.modules()
        for each in (*vars(module).values(), *module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    waiting = [each for each in (*own_classes(model), *hooks) if _is_code(each)]
    seen: set[Any] = set()
    while waiting:
        code = waiting.pop()
        if code not in seen:
            seen.add(code)
            waiting += _called_by(code)
    return tuple(mode for mode in WORDS if any(mode in _asks(each) for each in seen))


def _is_code(each: Any) -> bool:
    """Whether it is a function or a class of other code than torch's and this library's."""
    if not (inspect.isfunction(each) or inspect.isclass(each)):
        return False
    module = each.__module__ or ""
    return is_foreign(module) and module.partition(".")[0] not in sys.stdlib_module_names - {"__main__"}


@functools.cache
def _asks(code: Any) -> frozenset[str]:
    try:
        text = source_of(code)
    except (OSError, TypeError):
        return frozenset()
    return frozenset(mode for mode, words in WORDS.items() if words.search(text))


def _called_by(code: Any) -> list[Any]:
    """The functions that a function, or that the methods of a class, may call by name; of other modules, too."""
    methods = vars(code).values() if inspect.isclass(code) else [code]
    methods = [getattr(each, "__func__", getattr(each, "fget", each)) for each in methods]
    found: list[Any] = []
    for method in (inspect.unwrap(each) for each in methods if inspect.isfunction(each)):
        names = method.__code__.co_names
        named = [method.__globals__.get(name) for name in names]
        modules = [each for each in named if isinstance(each, ModuleType) and is_foreign(each.__name__)]
        found += [*named, *(vars(module).get(name) for module in modules for name in names)]
        for cell in method.__closure__ or ():
            with contextlib.suppress(ValueError):  # nothing is in it yet
                found.append(cell.cell_contents)
    return [each for each in found if inspect.isfunction(each) and _is_code(each)]


@contextlib.contextmanager
def told(mode: str) -> Iterator[None]:
    """Inside, code that asks is told that it is compiled or exported; any other mode changes nothing."""
    compiler: Any = torch.compiler
    before = compiler._is_compiling_flag, compiler._is_exporting_flag, _flags._is_onnx_exporting
    if mode in WORDS:
        compiler._is_compiling_flag = True
    if mode == EXPORTED:
        compiler._is_exporting_flag = _flags._is_onnx_exporting = True
    try:
        yield
    finally:
        compiler._is_compiling_flag, compiler._is_exporting_flag, _flags._is_onnx_exporting = before

"""Numbers that only methods read which no example call runs: `numbers_elsewhere`.

    def project(self, x):                       # called by a training loop, and by no example
        return self.body(x).mean(1) * self.width

Nothing sets such a number when channels of `body` go, since no trace has seen it. What it may count is judged by the
value: channels of what the method runs, in that number.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.graph.own_code import is_foreign, own_classes
from compress.graph.sizes.settable import settable, whole_number

NOT_RUN = ("train", "eval", "extra_repr")
SETS_UP = ("__", "init", "_init", "reset", "_reset")
"""What methods are called that compute nothing for a training loop."""


@dataclass(frozen=True)
class Elsewhere:
    """What a method may count.

    Attributes:
        parts: names of the parameters or modules that it runs.
        size: how many.
        place: full name of the number.
        reason: why they stay.
    """

    parts: tuple[str, ...]
    size: int
    place: str
    reason: str

    def counts(self, tensor: str) -> bool:
        """Whether the method runs what a parameter or buffer belongs to."""
        return any(tensor == part or tensor.startswith(f"{part}.") for part in self.parts)


def numbers_elsewhere(model: nn.Module, called: Collection[str]) -> list[Elsewhere]:
    """The numbers of modules that are read by methods which run something, and which no call of the examples reaches.

    Args:
        model: any module.
        called: the names of the methods that the example calls run.
    """
    run: set[str] = set()
    classes, left = own_classes(model), {"forward", *called}
    while left := left - run:  # a name that is mentioned anywhere counts as called, on whatever object
        run |= left
        found = [_methods(cls).get(name) for cls in classes for name in left]
        left = {name for method in found if method is not None for name in method.mentions}
    return [each for name, module in model.named_modules() for each in _read_in(name, module, run)]


def _read_in(name: str, module: nn.Module, run: Collection[str]) -> Iterator[Elsewhere]:
    kind: Any = type(module)
    for key, method in _computing(kind).items():
        runs = sorted(each for each in method.runs if module._modules.get(each) or each in module._parameters)
        parts = tuple(f"{name}.{each}".lstrip(".") for each in runs)
        for number in sorted(method.reads & vars(module).keys()) if parts and key not in run else ():
            size, place = _count(module, number), f"{name}.{number}".lstrip(".")
            if size:
                yield Elsewhere(parts, size, place, REASON.format(f"{name}.{key}".lstrip("."), place, size))


REASON = (
    "{0}(), which no example call runs, reads {1} = {2}, by which it may count these channels: give example_inputs as "
    "a list with a call of it, [inputs, Call(inputs, method={0!r})], or read the layer's own number there, such as "
    "self.conv.out_channels"
)


def _count(module: nn.Module, name: str) -> int:
    """A number that could count channels; 0 if it is none."""
    kept = vars(module)[name]
    number = whole_number(module, name) if kept is not None and settable(module, name) else None
    return number if number is not None and number > 1 else 0


@dataclass(frozen=True)
class _Method:
    """Attributes of `self` that a method reads and runs, and all attributes of anything that it speaks of."""

    reads: frozenset[str]
    runs: frozenset[str]
    mentions: frozenset[str]


@functools.cache
def _methods(cls: type) -> dict[str, _Method]:
    """The methods of a class of other code, without those of its bases."""
    found = {}
    for name, each in vars(cls).items() if is_foreign(cls.__module__) else ():
        if inspect.isfunction(each) and name != "__init__":
            with contextlib.suppress(OSError, TypeError, SyntaxError):
                nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(each)))))
                attributes = [each for each in nodes if isinstance(each, ast.Attribute)]
                reads = frozenset(each.attr for each in attributes if _of_self(each))
                mentions = frozenset(each.attr for each in attributes)
                # What sets attributes (a size, fused weights), or takes nothing, computes no outputs.
                sets_up = any(_of_self(each, ast.Store) for each in nodes) or each.__code__.co_argcount < 2
                found[name] = _Method(reads, frozenset() if sets_up else frozenset(_runs(nodes)), mentions)
    return found


@functools.cache
def _computing(cls: type) -> dict[str, _Method]:
    """The methods of a class and its bases that run something."""
    methods = {key: each for base in reversed(cls.__mro__) for key, each in _methods(base).items()}
    return {
        key: each for key, each in methods.items() if each.runs and key not in NOT_RUN and not key.startswith(SETS_UP)
    }


def _of_self(node: ast.AST, how: type[ast.expr_context] = ast.Load) -> bool:
    owner = node.value if isinstance(node, ast.Attribute) and isinstance(node.ctx, how) else None
    return isinstance(owner, ast.Name) and owner.id == "self"


def _runs(nodes: Collection[ast.AST]) -> Iterator[str]:
    """What is called of `self` or given to a function: `self.a(x)`, `self.b[0](x)`, `for c in self.d: x = c(x)`."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    called = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    through = [each.iter for each in nodes if isinstance(each, ast.For) and _names(each.target) & called]
    for each in (*through, *(call.func for call in calls), *(given for call in calls for given in call.args)):
        last = each.attr if isinstance(each, ast.Attribute) else ""
        while isinstance(each, ast.Attribute | ast.Subscript) and not _of_self(each):
            each = each.value
        if isinstance(each, ast.Attribute) and _of_self(each) and not last.startswith(SETS_UP):
            yield each.attr


def _names(target: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}

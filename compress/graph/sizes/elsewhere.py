"""Numbers that only methods read which no example call runs: `numbers_elsewhere`.

    def project(self, x):                       # called by a training loop, and by no example
        return self.body(x).mean(1) * self.width

The number may be kept anywhere (class, part, dictionary, module of Python code) and read in a helper or a property.
Nothing sets such a number when channels of `body` go, since no trace has seen it. What it may count is judged by the
value: channels of what the method runs, in that number.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from compress.graph.own_code import is_foreign, own_classes
from compress.graph.recording.sources import tree_of

NOT_RUN = ("train", "eval", "extra_repr")
SETS_UP = ("__", "init", "_init", "reset", "_reset", "set_", "_set_")
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
    methods = _every(kind)
    for key, method in _computing(kind).items():
        if key in run:
            continue
        reached = _reached(method, methods, run)
        runs = sorted({part for one in reached.values() for part, by in one.runs if _is_run(module, part, by)})
        parts = tuple(f"{name}.{each}".lstrip(".") for each in runs)
        read = [one for other, one in reached.items() if other not in run or one.flagged]
        for place, size in sorted({each for one in read for each in _numbers(one, module)}) if parts else ():
            full = f"{name}.{place}".lstrip(".")
            yield Elsewhere(parts, size, full, REASON.format(f"{name}.{key}".lstrip("."), full, size))


def _is_run(module: nn.Module, name: str, by: str) -> bool:
    """Whether this is a part or parameter, and the method that is called of it, if one is, not one that only counts."""
    part = module._modules.get(name)
    kind: Any = type(part)
    method = _every(kind).get(by)
    if part is None or method is None or method.runs or method.calls_itself:
        return part is not None or name in module._parameters
    return any(each in part._parameters or each in part._modules for each in method.reads)  # not `self.a.flops(h, w)`


def _reached(method: _Method, methods: dict[str, _Method], run: Collection[str]) -> dict[str, _Method]:
    """A method and those of the same object that it calls or reads (properties), by name.

    What `self(x, True)` runs is `forward` on a path that no example may have taken: it counts as if no example ran it.
    """
    found, left = {"": method}, [method]
    while left:
        each = left.pop()
        names = {name for name in each.reads if name in methods} | ({"forward"} if each.calls_itself else set())
        for name in names - found.keys():
            if name in methods:
                found[name] = replace(methods[name], flagged=name == "forward" and each.calls_itself)
                left.append(found[name])
    return found


def _numbers(method: _Method, module: nn.Module) -> Iterator[tuple[str, int]]:
    """The whole numbers that could count channels in what a method reads, wherever they are kept, as it writes them."""
    values = _Values(module, method)
    for node in method.nodes:
        value = values.of(node) if isinstance(node, KINDS) else None
        if type(value) is int and value > 1:
            yield ast.unparse(node).removeprefix("self."), value


KINDS = ast.Attribute | ast.Subscript | ast.BinOp | ast.Call | ast.Name


class _Values:
    """What an expression of a method is worth before any tensor is there; None if that is not known.

    The numbers of torch's own layers (`self.conv.out_channels`) and what is computed from tensors follow by themselves.
    """

    def __init__(self, module: nn.Module, method: _Method) -> None:
        self._module, self._globals = module, method.globals
        self._local = {
            node.targets[0].id: node.value
            for node in method.nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    def of(self, node: ast.AST, depth: int = 8) -> Any:
        """The value; no code of the user's runs but a dictionary's or a list's."""
        if not depth:
            return None
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node.id, depth)
        if isinstance(node, ast.Attribute):
            return _kept(self.of(node.value, depth - 1), node.attr)
        if isinstance(node, ast.Subscript):
            return _item(self.of(node.value, depth - 1), self.of(node.slice, depth - 1))
        if isinstance(node, ast.BinOp):
            return _computed(node.op, self.of(node.left, depth - 1), self.of(node.right, depth - 1))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            return _kept(self.of(node.args[0], depth - 1), self.of(node.args[1], depth - 1))
        return None

    def _named(self, name: str, depth: int) -> Any:
        if name == "self":
            return self._module
        if name in self._local:
            return self.of(self._local[name], depth - 1)
        return self._globals.get(name)


def _kept(owner: Any, name: Any) -> Any:
    """An attribute that is kept and not computed; None where it belongs to torch's own layers or to a tensor."""
    if owner is None or not isinstance(name, str) or isinstance(owner, Tensor):
        return None
    if isinstance(owner, nn.Module) and not is_foreign(type(owner).__module__):
        return None
    try:
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        found = owner._modules.get(name) if isinstance(owner, nn.Module) else None
    number = found if not hasattr(type(found), "__get__") else None
    return int(number) if isinstance(number, numbers.Integral) and not isinstance(number, bool) else number


def _item(owner: Any, key: Any) -> Any:
    known: Any = (dict, list, tuple)
    if isinstance(owner, known) and isinstance(key, int | str):
        with contextlib.suppress(LookupError, TypeError):
            return owner[key]
    return None


COMPUTED: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
}  # fmt: skip


def _computed(how: ast.operator, left: Any, right: Any) -> Any:
    if type(left) is int and type(right) is int and type(how) in COMPUTED:
        with contextlib.suppress(ArithmeticError):
            return COMPUTED[type(how)](left, right)
    return None


REASON = (
    "{0}(), which no example call runs, reads {1} = {2}, by which it may count these channels: give example_inputs as "
    "a list with a call of it, [inputs, Call(inputs, method={0!r})], or read the layer's own number there, such as "
    "self.conv.out_channels"
)


@dataclass(frozen=True)
class _Method:
    """Attributes of `self` that a method reads and runs, and all attributes of anything that it speaks of.

    `runs`: with the method that is called of the attribute, "" if it is called itself.
    `calls_itself`: it calls `self(...)` with more than an input; `flagged`: it is what such a call runs.
    """

    reads: frozenset[str]
    runs: frozenset[tuple[str, str]]
    mentions: frozenset[str]
    nodes: tuple[ast.AST, ...] = ()
    globals: Mapping[str, Any] = field(default_factory=dict)
    calls_itself: bool = False
    flagged: bool = False


@functools.cache
def _methods(cls: type) -> dict[str, _Method]:
    """The methods of a class of other code, without those of its bases."""
    found = {}
    for name, each in vars(cls).items() if is_foreign(cls.__module__) else ():
        each = each.fget if isinstance(each, property) else each
        if inspect.isfunction(each) and name != "__init__":
            with contextlib.suppress(OSError, TypeError, SyntaxError):
                nodes = list(ast.walk(tree_of(each)))
                attributes = [each for each in nodes if isinstance(each, ast.Attribute)]
                reads = frozenset(each.attr for each in attributes if _of_self(each))
                mentions = frozenset(each.attr for each in attributes)
                # What sets attributes (a size, fused weights), or takes nothing, computes no outputs.
                sets_up = any(_of_self(each, ast.Store) for each in nodes) or each.__code__.co_argcount < 2
                runs: frozenset[tuple[str, str]] = frozenset() if sets_up else frozenset(_runs(nodes))
                itself = any(_calls_itself(each) for each in nodes)
                found[name] = _Method(reads, runs, mentions, tuple(nodes), each.__globals__, itself)
    return found


@functools.cache
def _computing(cls: type) -> dict[str, _Method]:
    """The methods of a class and its bases that may compute something."""
    return {
        key: each
        for key, each in _every(cls).items()
        if key != "forward" and key not in NOT_RUN and not key.startswith(SETS_UP)
    }


@functools.cache
def _every(cls: type) -> dict[str, _Method]:
    return {key: each for base in reversed(cls.__mro__) for key, each in _methods(base).items()}


def _calls_itself(node: ast.AST) -> bool:
    """`self(x, True)`: with more than one argument, so that another path of `forward` may run."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "self":
        return False
    return len(node.args) + len(node.keywords) > 1


def _of_self(node: ast.AST, how: type[ast.expr_context] = ast.Load) -> bool:
    owner = node.value if isinstance(node, ast.Attribute) and isinstance(node.ctx, how) else None
    return isinstance(owner, ast.Name) and owner.id == "self"


def _runs(nodes: Collection[ast.AST]) -> Iterator[tuple[str, str]]:
    """What is called of `self` or given to a function: `self.a(x)`, `self.b[0](x)`, `for c in self.d: x = c(x)`."""
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    called = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    through = [each.iter for each in nodes if isinstance(each, ast.For) and _names(each.target) & called]
    through += [e.value for e in nodes if isinstance(e, ast.Assign) and any(_names(t) & called for t in e.targets)]
    for each in (*through, *(call.func for call in calls), *(given for call in calls for given in call.args)):
        last = each.attr if isinstance(each, ast.Attribute) else ""
        by = last if isinstance(each, ast.Attribute) and _of_self(each.value) else ""
        while isinstance(each, ast.Attribute | ast.Subscript) and not _of_self(each) and not _place_in_self(each):
            each = each.value
        if isinstance(each, ast.Attribute) and _of_self(each) and not last.startswith(SETS_UP):
            yield each.attr, by
        elif place := _place_in_self(each):
            yield place, ""


def _place_in_self(node: ast.AST) -> str:
    """The name of a part that is `self[0]`, as in a sequence, or `getattr(self, "body")`; '' if it is neither."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and len(node.args) > 1:
        owner, key = node.args[:2]
    elif isinstance(node, ast.Subscript):
        owner, key = node.value, node.slice
    else:
        return ""
    named = isinstance(owner, ast.Name) and owner.id == "self" and isinstance(key, ast.Constant)
    return str(key.value) if named and isinstance(key, ast.Constant) else ""


def _names(target: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}

"""Where the sizes in a model's code come from: a number that a module keeps, the size of a tensor, or neither.

`counted`, under which every whole number that a module of the model's own code keeps, and every size that is read off
a tensor, remembers its origin through sums, differences and multiples; the operations of the trace carry the numbers
that they were called with. So `x.view(b, self.hidden, h, w)` is known to be `self.hidden`, whatever it is called and
whatever else is as large, and `x[:, : c // 2]` half of a size.

    numbers_of(node)        # of torch.split(x, [self.a, c - self.a], 1): [(4, {a: 1}), (8, {c: 1, a: -1}), (1, None)]
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode

from compress.graph.recording.recorder import Recorder
from compress.graph.sizes.escapes import choice_by
from compress.graph.sizes.numbers import (
    DECISIONS,
    MARKED,
    Decision,
    Derived,
    Form,
    Kept,
    Number,
    Ratio,
    Size,
    derived,
    place_in,
    sizes_in,
    written_in,
)
from compress.graph.sizes.settable import counted_place, settable

DEPTH = 3
"""How deep in lists, dictionaries and configuration objects numbers are looked for."""
SERIAL, NUMBERS, READ, LITERAL = "compress_serial", "compress_numbers", "compress_read", "compress_literal"


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[None]:
    """Inside, numbers remember their origin, and traced operations the numbers that they are called with."""
    changed = []
    DECISIONS.clear()
    for name, module in model.named_modules():
        for key, value in _attributes(module).items():
            marked = _marked(value, name, key, DEPTH)
            if marked is not value:
                changed.append((module, key, vars(module).get(key, _CLASS), marked))
                module.__dict__[key] = marked
    try:
        with fx_traceback.preserve_node_meta(), _Watch():
            yield
    finally:
        for module, key, value, marked in changed:
            # A number that forward itself has assigned meanwhile stays as forward left it.
            if vars(module).get(key) is marked or not isinstance(marked, Number):  # the tracer copies containers
                module.__dict__[key] = value
                if value is _CLASS:
                    del module.__dict__[key]


_CLASS = object()
"""What stands for a value that the class has, not the module."""


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module of the model's own code keeps, of itself or by its class; of torch's layers how many channels."""
    if not _is_own(module):
        return {key: value for key, value in vars(module).items() if type(value) is int and counted_place(module, key)}
    own = [cls for cls in reversed(type(module).__mro__) if not cls.__module__.startswith(("torch.", "builtins"))]
    found = {key: value for cls in own for key, value in vars(cls).items() if type(value) is int}
    found |= vars(module)
    return {key: value for key, value in found.items() if key not in TORCH_KEEPS and settable(module, key)}


TORCH_KEEPS = frozenset(vars(nn.Module()))
"""What every module has: its parameters, its hooks."""


def _is_own(module: nn.Module) -> bool:
    """Whether its code is not a layer of torch, whose numbers follow its weights."""
    if isinstance(module, nn.Unflatten):
        return True
    containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return not any(cls.__module__.startswith("torch.") and cls not in containers for cls in type(module).__mro__)


def _marked(value: Any, module: str, path: str, depth: int) -> Any:
    """The same value with numbers that know where they are kept; itself if there are none in it."""
    if type(value) is int:
        # 0 and 1 count nothing that could be removed, and serve as flags and indices all over.
        return Number(value, {Kept(module, path): Fraction(1)}) if value > 1 else value
    items = _items(value) if depth else {}
    marked = {
        key: _marked(item, module, f"{path}/{key}", depth - 1)
        for key, item in items.items()
        if not set("./") & set(str(key))
    }
    changed = {key: item for key, item in marked.items() if item is not items[key]}
    return _replaced(value, changed) if changed else value


def _items(value: Any) -> dict[Any, Any]:
    """What a container or a configuration object holds."""
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, dict):
        return value
    plain = not isinstance(value, nn.Module | torch.Tensor | type) and not callable(value)
    return vars(value) if plain and hasattr(value, "__dict__") else {}


def _replaced(value: Any, changed: Mapping[Any, Any]) -> Any:
    """A copy with some items exchanged: what else holds the container keeps it as it was."""
    if isinstance(value, list | tuple):
        items = [changed.get(place, item) for place, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    copied = copy.copy(value)
    if isinstance(value, dict):
        copied.update(changed)
    else:
        copied.__dict__.update(changed)
    return copied


def number_at(module: nn.Module, path: str) -> Any:
    """What a module keeps under a path; None if nothing."""
    first, *rest = path.split("/")
    value = getattr(module, first, None)
    for key in rest:
        value = next((item for each, item in _items(value).items() if str(each) == key), None)
    return value


def set_number(module: nn.Module, path: str, number: Any) -> None:
    """Keep another number there; containers on the way are copied, since others may hold them too."""
    first, *rest = path.split("/")
    setattr(module, first, _with(getattr(module, first, None), rest, number))


def _with(value: Any, keys: Sequence[str], number: Any) -> Any:
    if not keys:
        return number
    found = next(each for each in _items(value) if str(each) == keys[0])
    return _replaced(value, {found: _with(_items(value)[found], keys[1:], number)})


class _Watch(TorchFunctionMode):
    """Marks the sizes that code reads off tensors, and notes the numbers of each call on what it traces."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.size or getattr(func, "__self__", None) is torch.Tensor.shape:
            return _sizes(args[0], func(*args, **kwargs), args[1:], kwargs)
        if func in COUNTS and args:
            count, sizes = func(*args, **kwargs), [size for size in _sizes(args[0], args[0].shape, (), {}) if size != 1]
            return sizes[0] if sizes == [count] else derived(count, *sizes)  # the length of a vector
        if func is torch.Tensor.__len__:
            _note_read(args[0], [0])
            return _counted(args[0], 0, func(*args, **kwargs), "value")
        if func in PARTS and args:
            found = self._noted(func, args, kwargs)
            dim = kwargs.get("dim", args[PARTS[func]] if len(args) > PARTS[func] else 0)
            return _counted(args[0], int(dim) % args[0].dim(), found, "parts")
        if func in VIEWS and -1 in (asked := list(_leaves((args, kwargs)))):
            frame = sys._getframe(1)
            written = written_in(frame)
            literal = [type(size) is int and size > 1 and size in written for size in asked]
            if any(literal):
                with fx_traceback.annotate({LITERAL: (literal, place_in(frame))}):
                    return self._noted(func, args, kwargs)
        return self._noted(func, args, kwargs)

    def _noted(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not (_has_number(args) or (kwargs and _has_number(kwargs.values()))):
            return func(*args, **kwargs)
        leaves = _leaves((args, kwargs))
        noted = [(int(leaf), leaf.form if isinstance(leaf, Number) else None) for leaf in leaves]
        with fx_traceback.annotate({NUMBERS: noted}):
            return func(*_bare(args), **_bare(kwargs))


VIEWS = (torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
PARTS: dict[Any, int] = {
    torch.Tensor.unbind: 1, torch.unbind: 1, torch.Tensor.split: 2, torch.split: 2, torch.Tensor.chunk: 2,
    torch.chunk: 2, torch.Tensor.tensor_split: 2, torch.tensor_split: 2,
}  # fmt: skip
"""What yields as many tensors as a size says, and the place of the dimension among the arguments."""
COUNTS = (torch.Tensor.numel, torch.Tensor.nelement, torch.numel, torch.Tensor.nbytes.__get__)  # type: ignore[attr-defined]


def _note_read(tensor: Any, dims: Iterable[int]) -> Node | None:
    """Keeps on the tensor's node that code has read its size in these dimensions; the node, if it is traced."""
    node = _node_of(tensor)
    if node is not None:
        custom = node.meta.setdefault("custom", {})
        custom.setdefault(SERIAL, node.name)
        custom[READ] = sorted({*custom.get(READ, ()), *dims})
    return node


def dims_read(node: Node) -> list[int]:
    """The dimensions of the node's tensor whose sizes code has read: it may compute anything from them."""
    found = (node.meta.get("custom") or {}).get(READ)
    return found if isinstance(found, list) else []


def _has_number(values: Iterable[Any]) -> bool:
    """Called for every operation of a pass, so it is kept fast."""
    for value in values:
        kind = type(value)
        if kind in MARKED or (kind in (list, tuple, torch.Size) and _has_number(value)):
            return True
        if kind is slice and _has_number((value.start, value.stop)):
            return True
    return False


def _leaves(value: Any) -> Iterator[int]:
    """All whole numbers in the order of the arguments; a slice is its start and its stop."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, slice):
        yield from (value.start or 0, sys.maxsize if value.stop is None else value.stop)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))


def _bare(value: Any) -> Any:
    """The same arguments with plain numbers."""
    if isinstance(value, Number | Derived):
        return int(value)
    if isinstance(value, Ratio):
        return float(value)
    if isinstance(value, slice):
        return slice(_bare(value.start), _bare(value.stop), _bare(value.step))
    if type(value) in (list, tuple, torch.Size):
        return type(value)(_bare(item) for item in value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


def _sizes(tensor: torch.Tensor, found: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = args[0] if args else kwargs.get("dim")
    dims = range(tensor.dim()) if given is None else [int(given) % tensor.dim()]
    node = _note_read(tensor, dims)
    if node is None:
        return found
    serial = node.meta["custom"][SERIAL]

    def marked(size: Any, dim: int) -> Any:
        # A size of 1 counts nothing, but the samples: an example is often a single one.
        counts = type(size) is int and (size > 1 or (size == 1 and dim == 0 and tensor.dim() > 1))
        return Number(size, {Size(serial, dim): Fraction(1)}) if counts else size

    if isinstance(found, torch.Size):
        return torch.Size(marked(size, dim) for dim, size in enumerate(found))
    return marked(found, dims[0])


def _counted(tensor: torch.Tensor, dim: int, found: Any, how: str) -> Any:
    """What was found, with a note if the code chooses by how many there are."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in (
        "torch._tensor",
        "torch.overrides",
        "torch.functional",
    ):
        frame = frame.f_back
    chooses = choice_by(frame, how)
    sizes = sizes_in(_sizes(tensor, tensor.size(dim), (dim,), {})) if chooses is not None else frozenset()
    if chooses is not None and sizes:
        DECISIONS.append(Decision(place_in(chooses), sizes, int(tensor.size(dim))))
    return found


def _node_of(tensor: torch.Tensor) -> Node | None:
    mode = get_proxy_mode()
    if isinstance(mode, Recorder):
        return mode.find(tensor)
    slot = get_proxy_slot(tensor, mode.tracer, None) if mode is not None else None
    node = getattr(getattr(slot, "proxy", None), "node", None)
    return node if isinstance(node, Node) else None


def serial_of(node: Node) -> str | None:
    """The serial under which `Size` names this node's tensor."""
    found = (node.meta.get("custom") or {}).get(SERIAL)
    return found if isinstance(found, str) else None


def numbers_of(node: Node) -> list[tuple[int, Form | None]]:
    """The numbers that the code called this operation with, and what they are."""
    found = (node.meta.get("custom") or {}).get(NUMBERS)
    return found if isinstance(found, list) else []


def literals_of(node: Node) -> tuple[list[bool], str]:
    """Which sizes of a view are numbers in the code, and where, if another one is -1; none where there is no -1."""
    found = (node.meta.get("custom") or {}).get(LITERAL)
    return found if isinstance(found, tuple) else ([], "")


def forms_of(node: Node, values: Sequence[Any]) -> list[Form | None]:
    """What the given arguments of an operation are, found among the numbers of its call in their order."""
    noted = numbers_of(node)
    # ATen's arguments are not the python call's (defaults,
    # flattened sizes), so the values are looked for as a run in it.
    for start in range(len(noted) - len(values) + 1):
        window = noted[start : start + len(values)]
        if [value for value, _ in window] == list(values):
            return [form for _, form in window]
    return [None] * len(values)


def form_of(node: Node, value: int) -> Form | None:
    """What the last number of this value is that the code called the operation with."""
    return next((form for each, form in reversed(numbers_of(node)) if each == value), None)

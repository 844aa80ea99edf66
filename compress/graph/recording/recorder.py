"""What notes the operations of a pass on fake tensors, as the model wrote them.

`Recorder`, a mode in the place where torch.export's own tracer sits: above autograd, before composite operations are
taken apart. Called by record.py.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode

from compress.graph.recording.fakes import PLAIN, Unrecordable, is_plain
from compress.graph.recording.results import QuickResults

ATEN = torch.ops.aten
BEYOND = (ATEN.is_nonzero, ATEN.item, ATEN.equal, ATEN.set_data, ATEN._has_compatible_shallow_copy_type, ATEN.resize_)


@dataclass
class Recording:
    """A recorded pass.

    Attributes:
        graph: its operations; `meta` of each node has `val`, `nn_module_stack` and `custom`, as torch.export's have.
        tensors: the placeholders of parameters and buffers -> their names.
        constants: the placeholders of tensors that the code holds or makes -> the tensors.
        results: the nodes of the tensors that the model returned.
    """

    graph: Graph = field(default_factory=Graph)
    tensors: dict[Node, str] = field(default_factory=dict)
    constants: dict[Node, Tensor] = field(default_factory=dict)
    results: set[Node] = field(default_factory=set)


class Recorder(ProxyTorchDispatchMode):
    """Notes each operation and has fake tensors compute the shape of its result.

    A subclass of torch's own mode, since torch accepts no other in that place.

    Args:
        model: whose modules are running.
        fake_mode: of the tensors.

    Attributes:
        made: what was recorded so far.
    """

    def __init__(self, model: nn.Module, fake_mode: FakeTensorMode) -> None:
        super().__init__(None, "real", pre_dispatch=True)  # type: ignore[arg-type]
        self.made = Recording()
        self._fake_mode = fake_mode
        self._results = QuickResults(fake_mode)
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._paths = _paths_of(self._modules)
        self._running = ""  # path of the innermost module whose call is under way
        self._turns: dict[nn.Module, int] = {}  # in that call: how often a module of several names was called
        self._stack: dict[str, tuple[str, str]] = {}
        self._calls: dict[str, int] = {}
        self._nodes: dict[int, tuple[weakref.ref[Tensor], Node]] = {}  # by id, and whose it was

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if _is_beyond(func):
            raise Unrecordable(str(func))
        noted, named = tuple(self._noted(args)), {key: self._noted(value) for key, value in kwargs.items()}
        if func is ATEN.lift_fresh.default:
            func = ATEN.lift_fresh_copy.default  # as torch.export has it: what follows may write into the copy
        result = self._results.of(func, args)
        if result is None:
            result = func(*args, **kwargs)
        if _gives_back(func, args, result):
            return result
        self._keep(result, self._new(func, noted, named))
        return result

    def place(self, tensor: Tensor, name: str) -> Node:
        """A placeholder for a tensor that the operations read from outside."""
        node = self.made.graph.create_node("placeholder", name, name=name)
        node.meta["val"] = tensor
        self._know(tensor, node)
        return node

    def find(self, tensor: Tensor) -> Node | None:
        """The node that made a tensor, if it is known."""
        known = self._nodes.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def node_of(self, tensor: Tensor) -> Node:
        """The node that made a tensor; a placeholder for one that the code holds or makes itself.

        Raises:
            Unrecordable: it was made here in a way that nobody saw.
        """
        known = self.find(tensor)
        if known is not None:
            return known
        if not is_plain(tensor) or isinstance(tensor, FakeTensor):
            raise Unrecordable(f"a {type(tensor).__name__} of unknown origin")
        node = self.place(tensor, "constant")
        node.meta["val"] = self._fake_mode.from_tensor(tensor, static_shapes=True)
        node.meta["value"] = self.made.constants[node] = tensor
        return node

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a module's call; what it does is noted as its."""
        path = self._path(module)
        if path is None:  # registered nowhere in the model: its operations belong to what called it
            return forward(module, *args, **kwargs)
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        kind, before = type(module), (self._stack, self._running, self._turns)
        key = f"{path}@{number}" if number else path
        self._stack = {**self._stack, key: (path, f"{kind.__module__}.{kind.__qualname__}")}
        self._running, self._turns = path, {}
        try:
            return forward(module, *args, **kwargs)
        finally:
            self._stack, self._running, self._turns = before

    def _path(self, module: nn.Module) -> str | None:
        """The name by which a module is called: of several that under which the module that calls it has it.

        An activation that many blocks share, or that stands several times in one sequence.

        Raises:
            Unrecordable: that is none of its names, or several.
        """
        names = self._paths.get(module, ())
        if len(names) < 2:
            return names[0] if names else None
        own = [name for name in names if name.rpartition(".")[0] == self._running]
        if len(own) > 1 and self._in_sequence():
            turn = self._turns.get(module, 0)
            self._turns[module] = turn + 1
            own = own[turn : turn + 1]
        if len(own) != 1:
            raise Unrecordable(
                f"a module under two names, {names[0]} and {names[1]}: that by which it is called counts"
            )
        return own[0]

    def _in_sequence(self) -> bool:
        """Whether what is running calls its parts one after the other, and does nothing else."""
        return type(self._modules[self._running]).forward is nn.Sequential.forward

    def _new(self, target: Any, args: Any, kwargs: Any) -> Node:
        node = self.made.graph.create_node("call_function", target, args, kwargs)
        node.meta["nn_module_stack"] = self._stack
        custom = fx_traceback.current_meta.get("custom")
        if custom:
            node.meta["custom"] = dict(custom)
        return node

    def _know(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = (weakref.ref(tensor), node)

    def _keep(self, result: Any, node: Node) -> None:
        node.meta["val"] = result
        if isinstance(result, Tensor):
            if not is_plain(result):
                raise Unrecordable("a tensor inside a transformation")
            self._know(result, node)
            if not node.all_input_nodes or str(node.target).partition(".default")[0].endswith("_like"):
                # torch makes a variable of what a factory gives: of the same tensor only if nobody else holds it.
                node.meta["val"] = result.detach()
        elif isinstance(result, list | tuple):
            for place, item in enumerate(result):
                if item is not None:
                    self._keep(item, self._new(operator.getitem, (node, place), {}))
        elif result is not None:
            raise Unrecordable(f"{node.target} yields {type(result).__name__}")

    def _noted(self, value: Any) -> Any:
        """An argument with nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if type(value) in (list, tuple, torch.Size):
            return [self._noted(item) for item in value]
        if isinstance(value, PLAIN):
            return value
        raise Unrecordable(f"an argument of type {type(value).__name__}")


def _gives_back(func: Any, args: Any, result: Any) -> bool:
    """Whether a pure operation had nothing to do, as a cast to the type that a tensor has.

    Its result is its input: noted as the maker, it would be what all later readers of the input read, as if what runs
    beside a norm that casts read the norm. Dropout stays: only in eval mode does it give its input back, and
    the traces of both modes are compared.
    """
    if not isinstance(result, Tensor) or func._schema.is_mutable or "dropout" in func._schema.name:
        return False
    return any(result is each for each in args)


@functools.cache
def _is_beyond(func: Any) -> bool:
    """Whether an operation looks at values, changes the layout of a tensor in place, or is of a higher order."""
    if not isinstance(func, torch._ops.OpOverload) or func.overloadpacket in BEYOND:
        return True
    if func is ATEN.detach_.default:  # tagged as one that changes the layout, which it does not
        return False
    return not {torch.Tag.data_dependent_output, torch.Tag.inplace_view}.isdisjoint(func.tags)


def _paths_of(modules: Mapping[str, nn.Module]) -> dict[nn.Module, tuple[str, ...]]:
    found: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in modules.items():
        found[module] = (*found.get(module, ()), name)
    return found

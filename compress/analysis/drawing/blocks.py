"""The boxes of a network's drawing: operations of a trace, put together until a person can read them.

`Block` and `blocks_of`. Three steps:

1. All operations of one call of a layer (a module of torch's own, one without children, a quantizer) are one box. 2.
What follows a box alone and moves no shape (BatchNorm, ReLU, dropout, flattening) joins it: `Conv2d + BatchNorm2d`.
3. What only prepares parameters (quantizing a weight) is not a box.
"""

import math
from dataclasses import dataclass, field

from torch import nn
from torch.fx import Node

from compress.analysis.macs.layers import Constants
from compress.graph.macs.count import macs_of
from compress.graph.trace import Trace, operation_name, shape_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OWN_BOX = frozenset(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample", "interpolate"))


@dataclass
class Block:
    """One box.

    Attributes:
        number: of the box, in the order of execution.
        name: full name of its first module; '' for an operation of the model itself.
        parts: what happens inside, such as `Conv2d 3x3, 32 to 64` and `ReLU`.
        shape: of its result, batch included.
        macs: multiply-accumulates.
        sparsity: fraction of zeros of its weights; None without weights.
        inputs: numbers of the boxes that it reads.
        cluster: the modules around it, outermost first, such as `layer1`, `layer1.0`.
    """

    number: int
    name: str
    parts: list[str]
    shape: tuple[int, ...]
    macs: int = 0
    sparsity: float | None = None
    inputs: list[int] = field(default_factory=list)
    cluster: tuple[str, ...] = ()


def blocks_of(trace: Trace, model: nn.Module) -> list[Block]:
    """The boxes of a trace, inputs first, in the order of execution."""
    return _Builder(trace, model).build()


class _Builder:
    def __init__(self, trace: Trace, model: nn.Module) -> None:
        self.trace = trace
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.constants = Constants(trace, model)
        self.owner: dict[Node, Block] = {}
        self.calls: dict[str, Block] = {}
        self.blocks: list[Block] = []

    def build(self) -> list[Block]:
        for node in self.trace.placeholders:
            if node not in self.trace.tensor_names and shape_of(node):
                self._new(node, Block(len(self.blocks), "", [f"input {node.name}"], shape_of(node)))
        for node in self.trace.operations:
            if node not in self.constants.sources:
                self._add(node)
        return self.blocks

    def _add(self, node: Node) -> None:
        call, name = self._layer_call(node)
        block = self.calls.get(call) if call else None
        if block is None:
            block = self._joined(node, name)
        if block is None:
            block = self._new(
                node, Block(len(self.blocks), name or "", [], shape_of(node), cluster=_around(name or ""))
            )
            if name is None:
                block.cluster = _around(_innermost(node) + "." if _innermost(node) else "")
        if not (call and call in self.calls):
            block.parts.append(self._text(node, name))
        if call:
            self.calls[call] = block
        self._count(node, block)

    def _new(self, node: Node, block: Block) -> Block:
        self.blocks.append(block)
        self.owner[node] = block
        return block

    def _count(self, node: Node, block: Block) -> None:
        self.owner[node] = block
        block.shape = shape_of(node) or block.shape
        block.macs += macs_of(node)
        if macs_of(node) and block.sparsity is None and (names := self.constants.names(node)):
            block.sparsity = 1.0 - self.constants.density(names)
        for source in node.all_input_nodes:
            giver = self.owner.get(source)
            if giver is not None and giver is not block and giver.number not in block.inputs:
                block.inputs.append(giver.number)

    def _joined(self, node: Node, name: str | None) -> Block | None:
        """The box before it, when it is the only reader of that box and changes neither size nor level of nesting."""
        sources = [source for source in node.all_input_nodes if source in self.owner]
        if len(sources) != 1 or macs_of(node) or operation_name(node) in OWN_BOX:
            return None
        [source] = sources
        before = self.owner[source]
        alone = all(user is node or user in self.constants.sources for user in source.users)
        same_size = math.prod(shape_of(source)) == math.prod(shape_of(node))
        around = _around(name) if name is not None else before.cluster
        if alone and same_size and before.parts[0][:6] != "input " and around == before.cluster:
            return before
        return None

    def _layer_call(self, node: Node) -> tuple[str, str | None]:
        """The call (unique, also when a layer is called twice) and the name of the outermost layer that made a node."""
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            name = str(path).split("@")[0]
            module = self.modules.get(name)
            if name and module is not None and _is_layer(module):
                return f"{path} {key}", name
        return "", None

    def _text(self, node: Node, name: str | None) -> str:
        return operation_name(node).rstrip("_") if name is None else describe(self.modules[name])


def describe(module: nn.Module) -> str:
    """A layer in a few words, such as `Conv2d 3x3 /2, 32 to 64`."""
    kind = type(module).__name__
    if hasattr(module, "in_channels") and hasattr(module, "kernel_size"):
        kernel = "x".join(map(str, _as_tuple(module.kernel_size)))
        stride = _as_tuple(module.stride)[0]
        groups = f", {module.groups} groups" if getattr(module, "groups", 1) != 1 else ""
        step = f" /{stride}" if stride != 1 else ""
        return f"{kind} {kernel}{step}, {module.in_channels} to {module.out_channels}{groups}"
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return f"{kind} {module.in_features} to {module.out_features}"
    if isinstance(bits := getattr(module, "bits", None), int):
        return f"{kind} {bits} bits"
    return kind


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, CONTAINERS):
        return False
    ours = type(module).__module__.startswith("torch.nn")
    return ours or isinstance(getattr(module, "bits", None), int) or not list(module.children())


def _innermost(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]).split("@")[0] if stack else ""


def _around(name: str) -> tuple[str, ...]:
    """`layer1.0.conv1` -> (`layer1`, `layer1.0`)."""
    parts = [part for part in name.split(".")[:-1] if part]
    return tuple(".".join(parts[: i + 1]) for i in range(len(parts)))


def _as_tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)

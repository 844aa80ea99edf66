"""Whether an ONNX file from anywhere can be run: it reads no other file, ends, and does not grow without end.

`look_through`.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from compress.errors import UserError, shown

ENDLESS = ("Loop", "Scan")
MOST_NODES = 200_000  # with local functions written out; large networks have some thousand
Name = tuple[str, str, str]  # domain, name and overload of an operation


def look_through(model: Any, where: object) -> None:
    """Refuses what none of our files has.

    Args:
        model: `onnx.ModelProto`.
        where: for the message.

    Raises:
        UserError: weights outside of the file, operations that could run for ever, functions that call themselves or
            become too many nodes.
    """
    for part in _parts(model):
        kind = type(part).__name__
        if kind == "TensorProto" and part.data_location == part.EXTERNAL:
            raise UserError(f"{where} is refused: it has weights outside of the file, which could be any file")
        if kind == "NodeProto" and part.op_type in ENDLESS:
            raise UserError(f"{where} is refused: its graph has a {part.op_type}, which could run for ever")
    nodes = _written_out(model, where)
    if nodes > MOST_NODES:
        raise UserError(
            f"{where} is refused: written out, its graph has {shown(nodes)} nodes, and at most {MOST_NODES:,} are run"
        )


def _parts(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it, however deep."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting += value if field.is_repeated else [value]


def _written_out(model: Any, where: object) -> int:
    """Nodes of the main graph once every call of a local function is replaced by its nodes."""
    bodies: dict[Name, list[Name]] = {_name(each, each.name): _calls(each.node) for each in model.functions}
    sizes: dict[Name, int] = {}
    try:
        needed = {name: [call for call in calls if call in bodies] for name, calls in bodies.items()}
        order = list(TopologicalSorter(needed).static_order())
    except CycleError as e:
        raise UserError(f"{where} is refused: its function {shown(e.args[1][0][1])} calls itself") from e
    for name in order:
        sizes[name] = sum(sizes.get(call, 1) for call in bodies[name])
    return sum(sizes.get(call, 1) for call in _calls(model.graph.node))


def _calls(nodes: Any) -> list[Name]:
    """The operation of every node, those of subgraphs included."""
    return [_name(part, part.op_type) for node in nodes for part in _parts(node) if type(part).__name__ == "NodeProto"]


def _name(each: Any, name: str) -> Name:
    return each.domain, name, each.overload

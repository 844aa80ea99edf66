"""Which layers have a normalisation behind: what makes up for weights that are not of their own size.

`without_norm`, on a trace; whose weights change their size is known to dorefa.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch.fx import Node

from compress.graph.trace import Trace, operation_name
from compress.quantization.placement.sharing import is_weighted

NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm", "normalize"}
DIVIDES_BY = {"rsqrt", "sqrt", "std", "norm", "linalg_vector_norm"}  # in a normalisation that is written by hand


def without_norm(trace: Trace, owners: Mapping[Node, str], layers: Collection[str]) -> list[str]:
    """The layers whose output reaches another layer, or the network's output, and no normalisation before.

    Args:
        trace: of the network.
        owners: operation -> the module that makes it.
        layers: names of the layers that are asked for.
    """
    results = set(trace.results)
    calls = [node for node in trace.operations if is_weighted(node) and owners[node] in layers]
    return list(dict.fromkeys(owners[node] for node in calls if _reaches_end(node, results)))


def _reaches_end(call: Node, results: set[Node]) -> bool:
    if call in results:
        return True
    return any(node in results or is_weighted(node) for node in _reached(call))


def _reached(call: Node) -> Iterator[Node]:
    """What reads the output of a layer, directly or not, up to the next layer or normalisation."""
    seen, todo = {call}, [call]
    while todo:
        for user in todo.pop().users:
            if user in seen or user.op != "call_function" or _normalises(user):
                continue
            seen.add(user)
            yield user
            if not is_weighted(user):
                todo.append(user)


def _normalises(node: Node) -> bool:
    name = operation_name(node).rstrip("_")
    if name in NORMS:
        return True
    return name in ("mul", "div") and any(operation_name(each) in DIVIDES_BY for each in node.all_input_nodes)

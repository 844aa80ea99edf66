"""Regions of a traced graph that run under another setting: `with torch.no_grad():`, `with torch.autocast(...):`.

`inline_regions`, which puts their operations back where they stood: torch.export makes one call of a sub-graph of
each, and neither setting changes shapes, channels or products; `follow_data`, for `y.data = z`; `skip_idle_casts`,
for `x.float()` of floats; `with_repeats`, for what runs under `torch.vmap`. Called by `trace.py`.

    conv1                        conv1
    wrap_with_set_grad_enabled   conv2      (in the sub-graph: conv2, relu)
    getitem                 ->   relu
    conv3                        conv3
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

SUBGRAPH_AT = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""The call -> the place of the sub-graph among its arguments; the sub-graph's own inputs follow it."""


def inline_regions(module: GraphModule) -> None:
    """Replace each region by its operations, regions inside regions too; the graph can then be read, not run.

    Args:
        module: of an exported program; its graph is changed in place.
    """
    graph = module.graph
    for call in list(graph.nodes):
        at = SUBGRAPH_AT.get(getattr(call.target, "__name__", "")) if call.op == "call_function" else None
        if at is None:
            continue
        source: Any = call.args[at]
        region = getattr(module, source.target)
        inline_regions(region)
        places = [node for node in region.graph.nodes if node.op == "placeholder"]
        known: dict[Node, Any] = dict(zip(places, call.args[at + 1 :], strict=True))
        with graph.inserting_before(call):
            results: Any = graph.graph_copy(region.graph, known)
        # A region yields a tuple, which only `getitem` reads: each of those gives way to the value itself.
        for picked in list(call.users):
            picked.replace_all_uses_with(results[picked.args[1]])
            graph.erase_node(picked)
        graph.erase_node(call)
        if not source.users:
            graph.erase_node(source)


def follow_data(module: GraphModule) -> None:
    """After `y.data = z`, what reads y reads z; all that the tracer notes is a comparison of their types.

    Parameters are left alone: what a network assigns to one is the parameter from then on.

    Args:
        module: with its regions inlined; its graph is changed in place.
    """
    graph = module.graph
    places = {node: i for i, node in enumerate(graph.nodes)}
    for note in list(graph.nodes):
        if not str(note.target).startswith("aten._has_compatible_shallow_copy_type"):
            continue
        old, new = note.args
        if old.op != "placeholder":
            # Only later readers: what ran before the assignment saw the old tensor.
            readers = {node for node in old.users if places[node] > places[note]}
            old.replace_all_uses_with(new, delete_user_cb=readers.__contains__)
            graph.erase_node(note)


def with_repeats(module: GraphModule) -> list[Node]:
    """All nodes, each operation under `torch.vmap` with how many times it runs: its shapes are those of one example.

        vmap(vmap(torch.dot, (None, 0)), (0, None))(x, y)       # x (6, 16), y (4, 16): dot of (16) and (16), 24 times

    What reads nothing of a batch runs once, though it stands in the same function.
    """
    levels: dict[Node, dict[int, int]] = {}  # of what a node reads: level of vmap -> size of the batch
    for node in module.graph.nodes:
        found = {level: size for source in node.all_input_nodes for level, size in levels.get(source, {}).items()}
        name, given = getattr(node.target, "__name__", ""), node.args
        if found:
            node.meta[REPEATS] = math.prod(found.values())
        if name == "_add_batch_dim":
            found[given[2]] = int(given[0].meta["val"].shape[given[1]])
        elif name == "_remove_batch_dim":
            found.pop(given[1], None)
        levels[node] = found
    return list(module.graph.nodes)


REPEATS = "compress_repeats"


def has_subgraph(node: Node) -> bool:
    """Whether the call runs a sub-graph that nothing looks into, such as the branches of `torch.cond`."""
    return any(source.op == "get_attr" for source in node.all_input_nodes)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer that reads one tensor and gives one.

    Attributes:
        module: its name.
        source: the tensor that it reads.
        result: the tensor that it gives.
    """

    module: str
    source: Node
    result: Node


def layer_calls(
    operations: Iterable[Node], owner: Callable[[Node], str], call: Callable[[Node], Hashable], made: Iterable[Node]
) -> dict[Node, LayerCall]:
    """Operation -> the call of a layer that it is part of, where that reads one tensor and gives one.

    Args:
        operations: of a trace, in their order.
        owner: the name of the module that made an operation.
        call: the same for all operations of one call, another for the next call of the same module.
        made: nodes that carry no activations: parameters, and what is computed from nothing else.
    """
    found: dict[Node, LayerCall] = {}
    own = set(made)
    for _, run in itertools.groupby(operations, call):  # what one call made in a row
        nodes = list(run)
        inside = set(nodes)
        sources = {each for node in nodes for each in node.all_input_nodes} - inside - own
        results = [node for node in nodes if not set(node.users) <= inside]
        # Otherwise a call of the layer cannot be replaced by one on
        # a padded tensor: there is no single place for the padding.
        if len(sources) == len(results) == 1:
            found |= dict.fromkeys(nodes, LayerCall(owner(nodes[0]), *sources, *results))
    return found


CASTS = frozenset({"to", "type_as", "contiguous"})
"""What gives its input back where there is nothing to do."""


def skip_idle_casts(module: GraphModule) -> None:
    """What reads a cast that had nothing to do reads its input; the code has one tensor there, and two readers of it.

    Args:
        module: with its regions inlined; its graph is changed in place.
    """
    for node in list(module.graph.nodes):
        kind = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if kind == "_assert_tensor_metadata":  # the tracer's own, beside each cast
            module.graph.erase_node(node)
        if kind not in CASTS:
            continue
        before, after = (each.meta.get("val") for each in (node.args[0], node))
        if _alike(before, after) and True not in (*node.args, *node.kwargs.values()):  # `copy=True` makes another
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _alike(before: Any, after: Any) -> bool:
    looks = [(each.dtype, each.device, each.stride()) for each in (before, after) if isinstance(each, Tensor)]
    return len(looks) == 2 and looks[0] == looks[1]

"""Multiply-accumulates by the weights that operations read: what a channel's weights cost, and what costs without any.

`weight_macs`, `other_macs`: of all calls that were traced, each once, in eval mode.
"""

import math
from collections.abc import Iterable

from torch.fx import Node

from compress.graph.macs.count import macs_of
from compress.graph.trace import Trace, shape_of


def weight_macs(traces: Iterable[Trace]) -> dict[str, int]:
    """Weight name -> the multiply-accumulates of all operations that read it, in all calls; biases only add.

    Several weights of one operation, as in an LSTM, share it by their size.
    """
    found: dict[str, int] = {}
    for trace, node in _evaluated(traces):
        macs = macs_of(node)
        sizes = _weights_of(trace, node) if macs else {}
        for name, size in sizes.items():
            found[name] = found.get(name, 0) + macs * size // sum(sizes.values())  # read twice, it works twice
    return found


def other_macs(traces: Iterable[Trace]) -> int:
    """Those of operations that read no weight, such as products of two activations in attention."""
    return sum(macs_of(node) for trace, node in _evaluated(traces) if not _weights_of(trace, node))


def _evaluated(traces: Iterable[Trace]) -> list[tuple[Trace, Node]]:
    return [(trace, node) for trace in traces if not trace.training for node in trace.operations]


def _weights_of(trace: Trace, node: Node) -> dict[str, int]:
    """The weights that an operation reads, also through what is computed from them -> elements."""
    sources = {source for read in node.all_input_nodes for source in trace.sources.get(read, ())}
    return {
        trace.tensor_names[source]: math.prod(shape_of(source))
        for source in sources
        if source in trace.tensor_names and len(shape_of(source)) > 1
    }

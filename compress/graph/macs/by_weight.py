"""Multiply-accumulates by the weights that operations read: what a channel's weights cost, and what costs without any.

`weight_macs`, `other_macs`.
"""

import math

from torch.fx import Node

from compress.graph.macs.count import macs_of
from compress.graph.trace import Trace, shape_of


def weight_macs(trace: Trace) -> dict[str, int]:
    """Weight name -> the multiply-accumulates of all operations that read it; biases only add.

    Several weights of one operation, as in an LSTM, share it by their size.
    """
    found: dict[str, int] = {}
    for node in trace.operations:
        macs = macs_of(node)
        sizes = _weights_of(trace, node) if macs else {}
        for name, size in sizes.items():
            found[name] = found.get(name, 0) + macs * size // sum(sizes.values())  # read twice, it works twice
    return found


def other_macs(trace: Trace) -> int:
    """Those of operations that read no weight, such as products of two activations in attention."""
    return sum(macs_of(node) for node in trace.operations if not _weights_of(trace, node))


def _weights_of(trace: Trace, node: Node) -> dict[str, int]:
    """The weights that an operation reads, also through what is computed from them -> elements."""
    sources = {source for read in node.all_input_nodes for source in trace.sources.get(read, ())}
    return {
        trace.tensor_names[source]: math.prod(shape_of(source))
        for source in sources
        if source in trace.tensor_names and len(shape_of(source)) > 1
    }

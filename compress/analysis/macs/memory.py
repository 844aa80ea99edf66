"""Bytes of tensors in a trace.

The size of one, and how much is alive at once. Called by compress/analysis/macs/layers.py.
"""

from torch import Tensor
from torch.fx import Node

from compress.graph.trace import Trace


def tensor_bytes(node: Node) -> int:
    """Bytes of what a node yields, all of its tensors together."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else [value]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def peak_bytes(trace: Trace) -> int:
    """The most bytes of inputs and activations that are alive at one time, if each is freed after its last use.

    Views and in-place operations share their source's memory. Parameters and buffers are left out.
    """
    steps = [node for node in trace.placeholders if node not in trace.tensor_names] + trace.operations
    fixed = {key for node in trace.tensor_names for key in _storages(node)}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    born: dict[int, int] = {}
    for moment, node in enumerate(steps):
        for key, count in _storages(node).items():
            if key not in fixed:
                born.setdefault(key, moment)
                last[key], size[key] = moment, count
        for source in node.all_input_nodes:
            last.update({key: moment for key in _storages(source) if key in born})
    for node in trace.results:
        last.update({key: len(steps) for key in _storages(node) if key in born})
    # change[k]: by how much more is alive at step k than at the one before.
    # A tensor is still there while its last reader runs, hence + 1.
    change = [0] * (len(steps) + 2)
    for key, moment in born.items():
        change[moment] += size[key]
        change[last[key] + 1] -= size[key]
    alive = peak = 0
    for step in change:
        alive += step
        peak = max(peak, alive)
    return peak


def _storages(node: Node) -> dict[int, int]:
    """Identity of each storage that a node's result lies in -> its bytes."""
    value = node.meta.get("val")
    tensors = [t for t in (value if isinstance(value, tuple | list) else [value]) if isinstance(t, Tensor)]
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}

"""Where a feature's channels, or the classes of logits, are: dimension 1 or the last one.

Here: `channel_dim`. Not here: what is done along it (losses.py, adaptors.py).

    (N, C) -> 1       (N, C, H, W), (N, C, D, H, W) -> 1
    (N, C, L) of Conv1d -> 1       (N, tokens, C) of Linear or LayerNorm -> 2

Three dimensions do not tell which of the two it is. The layer that made the tensor does, which autograd remembers.
"""

from typing import Any

from torch import Tensor

SECOND = ("Convolution", "BatchNorm", "GroupNorm", "InstanceNorm")  # makers of (N, C, ...), by autograd's names
LAST = ("Addmm", "MmBackward", "BmmBackward", "LinearBackward", "LayerNorm", "RmsNorm", "Embedding")
STEPS = 200  # back from the tensor
Where = list[int | None]  # dimension of an earlier tensor -> where it is now


def channel_dim(feature: Tensor) -> int:
    """The dimension of the channels; of (N, a, b) whose maker is unknown the last one."""
    if feature.dim() != 3:
        return 1 if feature.dim() > 3 else feature.dim() - 1
    found = _made_along(feature)
    return feature.dim() - 1 if found is None else found


def _made_along(feature: Tensor) -> int | None:
    """Where the last layer with weights put its channels, followed through transpositions and views."""
    node: Any = feature.grad_fn
    where: Where = list(range(feature.dim()))
    for _ in range(STEPS):
        if node is None:
            return None
        name = node.name()
        if any(maker in name for maker in LAST):
            return where[-1]
        if any(maker in name for maker in SECOND):
            return where[1] if len(where) > 1 else None
        where = _before(node, name, where)
        node = next(
            (each for each, _ in node.next_functions if each is not None and "Accumulate" not in each.name()), None
        )
    return None


def _before(node: Any, name: str, where: Where) -> Where:
    """The same for the operation's input."""
    if name.startswith("Transpose"):
        first, second = (_signed(each, len(where)) for each in (node._saved_dim0, node._saved_dim1))
        where[first], where[second] = where[second], where[first]
    elif name.startswith("Permute"):
        before: Where = [None] * len(where)
        for now, then in enumerate(node._saved_dims):
            before[_signed(then, len(where))] = where[now]
        where = before
    elif name.startswith("TBackward"):
        where = where[::-1]
    elif name.startswith("Unsqueeze"):
        where = [each for i, each in enumerate(where) if i != _signed(node._saved_dim, len(where))]
    elif "View" in name and hasattr(node, "_saved_self_sym_sizes"):
        rank = len(node._saved_self_sym_sizes)  # what is split or joined is taken to be in front of the last dimension
        where = [*([None] * (rank - 1)), where[-1]] if rank != len(where) else where
    return where


def _signed(dim: int, rank: int) -> int:
    """Autograd saves -1 as 2^64 - 1."""
    return (dim - 2**64 if dim >= 2**63 else dim) % rank

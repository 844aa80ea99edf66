"""Where a feature's channels, or the classes of logits, are: dimension 1 or the last one.

`channel_dim`.

    (N, C) -> 1       (N, C, H, W), (N, C, D, H, W) -> 1       (N, H, W, C) of Linear or LayerNorm (Swin) -> 3
    (N, C, L) of Conv1d -> 1       (N, tokens, C) of Linear or LayerNorm -> 2

Three and more dimensions do not show which of the two it is. The layer that made the tensor does, which autograd
remembers; what was split, joined, stacked or averaged behind the layer is followed by the shapes that autograd keeps.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

SECOND = ("Convolution", "BatchNorm", "GroupNorm", "InstanceNorm")  # makers of (N, C, ...), by autograd's names
LAST = ("Addmm", "MmBackward", "BmmBackward", "LinearBackward", "LayerNorm", "RmsNorm", "Embedding")
HIDING = ("Checkpoint", "Compiled")  # whole parts of a network
OPAQUE = ("Checkpoint", "Compiled", "AsStrided", "Unfold", "Repeat")  # what is inside, or in which order, is unknown
MOVES = ("TBackward", "Transpose", "Permute", "Expand", "View", "UnsafeView", "Squeeze", "Unsqueeze")
STEPS = 200  # back from the tensor
Where = list[int | None]  # dimension of an earlier tensor -> where it is now


def channel_dim(feature: Tensor) -> int:
    """The dimension of the channels; where the maker is unknown the last one of (N, a, b), 1 of more dimensions."""
    found = known_channel_dim(feature)
    return feature.dim() - 1 if found is None else found


def known_channel_dim(feature: Tensor) -> int | None:
    """The same; None of (N, a, b) whose maker is unknown."""
    if feature.dim() < 3:
        return feature.dim() - 1
    found = _made_along(feature)
    return found if feature.dim() == 3 else found or 1  # dimension 0 is the samples'


def told_channel_dim(feature: Tensor) -> int | None:
    """The same; None too of more dimensions whose maker is inside of a checkpoint or of compiled code."""
    if feature.dim() > 3 and _made_along(feature) is None and is_hidden(feature, HIDING):
        return None
    return known_channel_dim(feature)


def is_compiled(feature: Tensor) -> bool:
    """Whether a tensor is what torch.compile's code has made, directly or behind a view."""
    return is_hidden(feature, ("Compiled",))


def is_hidden(feature: Tensor, inside: Sequence[str]) -> bool:
    """Whether a tensor comes out of one of these, directly or behind other operations."""
    node: Any = feature.grad_fn
    for _ in range(STEPS):
        if node is None or any(each in node.name() for each in inside):
            return node is not None
        node = next((each for each, _ in node.next_functions if each is not None), None)
    return False


def _made_along(feature: Tensor) -> int | None:
    """Where the last layer with weights put its channels, followed through transpositions and views."""
    node: Any = feature.grad_fn
    where: Where = list(range(feature.dim()))
    shape: Sequence[int] = feature.shape
    for _ in range(STEPS):
        if node is None or any(each in node.name() for each in OPAQUE):
            return None
        if any(maker in node.name() for maker in LAST):
            return where[-2 if len(where) > 1 and _is_of_rows(node) else -1]
        if any(maker in node.name() for maker in SECOND):
            return where[1] if len(where) > 1 else None
        # Follow the data: the first input that is not a parameter.
        source, number = next((each for each in node.next_functions if not _is_parameter(each[0])), (None, 0))
        if source is None:
            return None
        before = source._input_metadata[number].shape  # of what it gave: a gradient is of the same shape
        where, node, shape = _before(node, where, shape, before), source, before
    return None


def _is_of_rows(product: Any) -> bool:
    """Whether a matrix product is W x with a parameter W, so that its channels are the rows."""
    if "mBackward" not in product.name():
        return False
    left, right = (_is_parameter(each) for each, _ in product.next_functions[-2:])  # behind what addmm adds
    return left and not right


def _is_parameter(node: Any) -> bool:
    """Whether autograd comes to a parameter, or to nothing that it knows, without any computation."""
    while node is not None and node.name().startswith(MOVES):
        node = node.next_functions[0][0]
    return node is None or "Accumulate" in node.name()


def _before(node: Any, where: Where, now: Sequence[int], before: Sequence[int]) -> Where:
    """Where the dimensions of an operation's input are, from where those of its output are.

    Args:
        node: of autograd.
        where: of the output's dimensions.
        now: the output's shape.
        before: the input's shape.
    """
    rank, name = len(where), node.name()
    if name.startswith("Transpose"):
        first, second = (_signed(each, rank) for each in (node._saved_dim0, node._saved_dim1))
        where[first], where[second] = where[second], where[first]
        return where
    if name.startswith("Permute"):
        return [where[[_signed(each, rank) for each in node._saved_dims].index(dim)] for dim in range(rank)]
    if name.startswith("TBackward"):
        return where[::-1]
    if name.startswith(("Unsqueeze", "Stack")):
        return [each for i, each in enumerate(where) if i != _signed(node._saved_dim, rank)]
    if "View" in name or name.startswith("Squeeze"):
        return _reshaped(where, now, before)
    if len(before) > rank:
        return _put_back(where, node._saved_dim, len(before)) if hasattr(node, "_saved_dim") else [None] * len(before)
    return where[rank - len(before) :]  # the same, or broadcast


def _put_back(where: Where, dims: Any, rank: int) -> Where:
    """Dimensions that were averaged over, or of which one position was taken."""
    gone = {_signed(each, rank) for each in (dims if isinstance(dims, tuple | list) else (dims,))}
    rest = iter(where)
    return [None if dim in gone else next(rest, None) for dim in range(rank)]


def _reshaped(where: Where, now: Sequence[int], before: Sequence[int]) -> Where:
    """Dimensions of a view: those that it leaves as they are; of what it splits or joins none is known."""
    found: Where = [None] * len(before)
    i = j = 0
    while i < len(before) and j < len(now):
        if before[i] == now[j]:
            found[i] = where[j]
            i, j = i + 1, j + 1
        elif before[i] == 1 or now[j] == 1:
            i, j = (i + 1, j) if before[i] == 1 else (i, j + 1)
        else:
            i, j = _past_group(now, before, i, j)
    return found


def _past_group(now: Sequence[int], before: Sequence[int], i: int, j: int) -> tuple[int, int]:
    """The ends of the smallest runs of dimensions from i and j on that hold equally many elements."""
    here, there = now[j], before[i]
    i, j = i + 1, j + 1
    while here != there and (i < len(before) if there < here else j < len(now)):
        if there < here:
            there, i = there * before[i], i + 1
        else:
            here, j = here * now[j], j + 1
    return (i, j) if here == there else (len(before), len(now))


def _signed(dim: int, rank: int) -> int:
    """Autograd saves -1 as 2^64 - 1."""
    return (dim - 2**64 if dim >= 2**63 else dim) % rank

"""Smaller images for the costly part of a proof: `smaller`, `cut`. A pass over 1280 x 720 pixels shows no more of the
channels than one over 96 x 96, and takes a hundred times as long.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.graph.calls import Call
from compress.graph.own_code import asks_for_training
from compress.graph.trace import module_of, operation_name, trace_model
from compress.thinning.proof.inputs import fewer
from compress.thinning.proof.observe import ForwardFailed, observe

SIDE = 96
ALIKE = 32  # a side keeps its remainder: whether code pads to multiples of 2, 4, ... 32 stays as it is
WORTH = 2  # how many times fewer pixels are worth the passes that try them


def smaller(model: nn.Module, calls: Sequence[Call], modes: Sequence[str]) -> Sequence[Call]:
    """The calls with their images cut to about 96 x 96 pixels.

    As they are where the model does not run on such ones, or takes another path.

    Args:
        model: left as it was.
        calls: tensors (N, C, H, W) that are floating-point count as images, if all of a call have one height and width.
        modes: in all of which the model must run on the smaller images.
    """
    found = cut(calls)
    if found is calls:
        return calls
    with contextlib.suppress(ForwardFailed):
        for mode in modes:
            # Training mode needs two samples for its statistics.
            for call in fewer(found, 2 if mode == "train" else 1):
                observe(model, call, mode)
        if all(runs_alike(model, calls, mode) for mode in modes):
            return found
    return calls


def runs_alike(model: nn.Module, calls: Sequence[Call], mode: str) -> bool:
    """Whether a model runs the same operations on the smaller images: code may take another path for large ones."""
    mode = mode if asks_for_training(model) else "eval"
    for call, small in zip(calls, cut(calls), strict=True):
        known = _KNOWN.setdefault(call, {})
        if (id(model), mode) not in known:
            known[id(model), mode] = call is small or _path(model, call, mode) == _path(model, small, mode) != []
        if not known[id(model), mode]:
            return False
    return True


_KNOWN: MutableMapping[Call, dict[tuple[int, str], bool]] = weakref.WeakKeyDictionary()
"""What `runs_alike` found for the calls of one thinning, which has many trials."""


def _path(model: nn.Module, call: Call, mode: str) -> list[tuple[str, str]]:
    """The operations with their modules; none where it cannot be traced."""
    try:
        operations = trace_model(model, call, training=mode == "train").operations
    except UserError:
        return []
    return [(module_of(node), operation_name(node)) for node in operations]


def cut(calls: Sequence[Call]) -> Sequence[Call]:
    """The calls with their images cut to about 96 x 96 pixels, whether a model runs on such or not."""
    small = [_cut(call) for call in calls]
    return calls if all(each is None for each in small) else [a or b for a, b in zip(small, calls, strict=True)]


def _cut(call: Call) -> Call | None:
    """The call with smaller images; None where they are small already, or of several sizes."""
    images = [leaf for leaf in pytree.tree_leaves(call.inputs) if _is_image(leaf)]
    sizes = {tuple(each.shape[2:]) for each in images}
    if len(sizes) != 1:
        return None
    ((height, width),) = sizes
    rows, columns = (min(side, SIDE + side % ALIKE) for side in (height, width))
    if rows * columns * WORTH > height * width:
        return None

    def part(leaf: Any) -> Any:
        return leaf[:, :, :rows, :columns] if _is_image(leaf) else leaf

    return replace(call, inputs=pytree.tree_map(part, call.inputs))


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()

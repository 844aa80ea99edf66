"""Smaller images for the costly part of a proof: `smaller`. A pass over 1280 x 720 pixels shows no more of the channels
than one over 96 x 96, and takes a hundred times as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.graph.calls import Call
from compress.thinning.proof.observe import ForwardFailed, observe

SIDE = 96
ALIKE = 32  # a side keeps its remainder: whether code pads to multiples of 2, 4, ... 32 stays as it is
WORTH = 2  # how many times fewer pixels are worth the passes that try them


def smaller(model: nn.Module, calls: Sequence[Call], modes: Sequence[str]) -> Sequence[Call]:
    """The calls with their images cut to about 96 x 96 pixels; as they are where the model does not run on such ones.

    Args:
        model: left as it was.
        calls: tensors (N, C, H, W) that are floating-point count as images, if all of a call have one height and width.
        modes: in all of which the model must run on the smaller images.
    """
    cut = [_cut(call) for call in calls]
    if all(small is None for small in cut):
        return calls
    found = [small or call for small, call in zip(cut, calls, strict=True)]
    with contextlib.suppress(ForwardFailed):
        for mode in modes:
            for call in found:
                observe(model, call, mode)
        return found
    return calls


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

    def cut(leaf: Any) -> Any:
        return leaf[:, :, :rows, :columns] if _is_image(leaf) else leaf

    return replace(call, inputs=pytree.tree_map(cut, call.inputs))


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()

"""Smaller images for the costly part of a proof: `smaller`.

A pass over 1280 x 720 pixels shows no more of the channels than one over 96 x 96, and takes a hundred times as long;
32 x 32 are enough where a network keeps its resolution.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.graph.calls import Call
from compress.graph.own_code import asks_for_training
from compress.thinning.proof.inputs import fewer
from compress.thinning.proof.observe import Ran, path

SIDES = (32, 96, 128)
ALIKE = 32  # a side keeps its remainder: whether code pads to multiples of 2, 4, ... 32 stays as it is
WORTH = 2  # how many times fewer pixels are worth the passes that try them
LEAST = 3  # no size inside a network that follows the image's gets smaller: a map of one pixel shows little


def smaller(model: nn.Module, calls: Sequence[Call], modes: Sequence[str]) -> Sequence[Call]:
    """The calls with their images cut to about 32, 96 or 128 pixels a side, the least that shows the same.

    As they are where the model does not run on such ones, takes another path, or shrinks them to next to nothing.

    Args:
        model: left as it was.
        calls: tensors (N, C, H, W) that are floating-point count as images, if all of a call have one height and width.
        modes: in all of which the model must run on the smaller images.
    """
    kinds = dict.fromkeys("eval" if mode == "train" and not asks_for_training(model) else mode for mode in modes)
    for side in SIDES:
        small = [_cut(call, side) for call in calls]
        if any(each is not None for each in small) and all(
            one is None or _same_path(model, call, one, mode, side)
            for mode in kinds
            for call, one in zip(calls, small, strict=True)
        ):
            return [one or call for one, call in zip(small, calls, strict=True)]
    return calls


def _same_path(model: nn.Module, call: Call, small: Call, mode: str, side: int) -> bool:
    """Whether the model runs on both, by the same operations, and no size that follows the image's is next to nothing.

    Real passes: a trace costs more than a pass over one image, and does not see where values choose the path.
    """
    known = _KNOWN.setdefault(call, {})
    key, all_of_it = (id(model), mode, side), (id(model), mode, WHOLE)
    count = 2 if mode == "train" else _COUNTS.get(call, 1)  # training mode needs two samples for its statistics
    if key not in known:
        whole = known.get(all_of_it)
        known[key] = path(model, fewer([small], count), mode, functools.partial(_is_like, whole) if whole else None)
    if known[key] and all_of_it not in known:
        known[all_of_it] = path(model, fewer([call], count), mode)
    found, whole = known[key], known.get(all_of_it, ())
    return 0 < len(found) == len(whole) and all(_is_like(whole, *each) for each in enumerate(found))


def remember(model: nn.Module, call: Call, ran: Sequence[Ran], alike: Call) -> None:
    """Note which operations a model runs in eval mode, so that no pass has to show it.

    Args:
        model: any module.
        call: of which `smaller` will be asked.
        ran: the operations.
        alike: what they ran on: the same call, with as many or fewer samples.
    """
    batches = {len(leaf) for leaf in pytree.tree_leaves(alike.inputs) if isinstance(leaf, Tensor) and leaf.dim()}
    if len(batches) == 1 and (id(model), "eval", WHOLE) not in _KNOWN.setdefault(call, {}):
        _KNOWN[call][id(model), "eval", WHOLE], (_COUNTS[call],) = ran, batches


WHOLE = 0
_COUNTS: MutableMapping[Call, int] = weakref.WeakKeyDictionary()
"""On how many samples the operations of a call are known, if not on one."""
_KNOWN: MutableMapping[Call, dict[tuple[int, str, int], Sequence[Ran]]] = weakref.WeakKeyDictionary()
"""The paths of the calls of one thinning, which has many trials, by the side of the image."""


def _is_like(whole: Sequence[Ran], place: int, small: Ran) -> bool:
    """Whether an operation on a smaller image is that on the whole one, and its result not next to nothing."""
    other = whole[place] if place < len(whole) else None
    if other is None or (small.module, small.operation, len(small.shape)) != (
        other.module,
        other.operation,
        len(other.shape),
    ):
        return False
    return all(a == b or a >= LEAST for a, b in zip(small.shape, other.shape, strict=True))


def _cut(call: Call, side: int) -> Call | None:
    """The call with smaller images; None where they are small already, or of several sizes."""
    images = [leaf for leaf in pytree.tree_leaves(call.inputs) if _is_image(leaf)]
    sizes = {tuple(each.shape[2:]) for each in images}
    if len(sizes) != 1:
        return None
    ((height, width),) = sizes
    rows, columns = (min(each, side + each % ALIKE) for each in (height, width))
    if rows * columns * WORTH > height * width:
        return None

    def part(leaf: Any) -> Any:
        return leaf[:, :, :rows, :columns] if _is_image(leaf) else leaf

    return replace(call, inputs=pytree.tree_map(part, call.inputs))


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()

"""Attention modules that keep working when they lose heads, or a part of every head.

Which kinds of attention are known, and how a module becomes one with explicit head sizes: it stays the same object
with the same parameters and hooks; its class becomes a subclass of what it was. To teach thinning another attention,
write a mix-in, a subclass of both at the top of a module (so that thinned networks can be pickled), and enter it in
`SPECS`.

Worked example: `nn.MultiheadAttention(4, 2)`, 2 heads of size 2. Rows of `in_proj_weight` (12, 4), columns of
`out_proj.weight` (4, 4):

    row           0   1   2   3 | 4   5   6   7 | 8   9  10  11        column of out_proj   0   1   2   3
    part          query         | key           | value
    head          0   0   1   1 | 0   0   1   1 | 0   0   1   1                             0   0   1   1
    position      0   1   0   1 | 0   1   0   1 | 0   1   0   1                             0   1   0   1

    unit of a group                       rows                 columns    what it leaves
    head 1                                2 3 6 7 10 11        2 3        num_heads 1
    position 0 of every query and key     0 2 4 6                         head_dim 1
    position 0 of every value             8 10                 0 2        value_dim 1

A score is the sum over positions of query times key, so a position of which both are zero adds nothing; it is then
multiplied with `scale`, which stays 1/sqrt(2). All three units at once leave row 1 of the queries, row 5 of the keys,
row 9 of the values and column 1.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.thinning.attention.modules import Headed


@dataclass(frozen=True)
class HeadSpec:
    """How one kind of attention holds its heads.

    Attributes:
        module: where the subclass with explicit head sizes is defined; imported when it is needed.
        headed: name of that subclass.
        projections: the weights whose rows are query, key and value, each by heads: one weight, or three.
        count: the attribute that holds the number of heads.
    """

    module: str
    headed: str
    projections: tuple[str, ...]
    count: str


HEAD_SIZES = ("head_dim", "value_dim")
"""Numbers that a module has once its head sizes are explicit."""
OWN = "compress.thinning.attention.modules"
VISION = "compress.thinning.attention.torchvision"
QKV = ("qkv.weight",)
SPECS = {
    "torch.nn.modules.activation.MultiheadAttention": HeadSpec(
        OWN, "HeadedMultiheadAttention", ("in_proj_weight",), "num_heads"
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": HeadSpec(
        VISION, "HeadedShiftedWindowAttention", QKV, "num_heads"
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": HeadSpec(
        VISION, "HeadedShiftedWindowAttentionV2", QKV, "num_heads"
    ),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": HeadSpec(
        VISION, "HeadedShiftedWindowAttention3d", QKV, "num_heads"
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": HeadSpec(
        VISION, "HeadedRelativePositionalMultiHeadAttention", ("to_qkv.weight",), "n_heads"
    ),
}
"""Exact class of a module -> its heads. By name, so that torchvision need not be there."""
SEPARATE = HeadSpec(OWN, "HeadedMultiheadAttention", ("q_proj_weight", "k_proj_weight", "v_proj_weight"), "num_heads")
"""`nn.MultiheadAttention` whose keys or values have a width of their own (`kdim`, `vdim`)."""


def head_spec(module: nn.Module) -> HeadSpec | None:
    """How this module holds its heads; None if nothing is known of it, or if it has parts that we do not compute."""
    kind = next(kind for kind in type(module).__mro__ if not issubclass(kind, Headed))
    spec = SPECS.get(f"{kind.__module__}.{kind.__qualname__}")
    if isinstance(module, nn.MultiheadAttention) and spec is not None:
        if module.bias_k is not None or module.add_zero_attn:
            return None
        spec = spec if module.in_proj_weight is not None else SEPARATE
    if spec is None:
        return None
    own = dict(module.named_parameters())  # a wrapped layer (quantized, say) holds its weight under another name
    return spec if all(name in own for name in spec.projections) else None


def as_headed(module: nn.Module) -> None:
    """Turn a module into its subclass with explicit head sizes; one that is already stays as it is."""
    spec = head_spec(module)
    assert spec is not None, type(module)
    if not isinstance(module, Headed):
        size = _rows(module, spec) // 3 // int(getattr(module, spec.count))
        module.__dict__.update(head_dim=size, value_dim=size, scale=size**-0.5)
        module.__class__ = getattr(importlib.import_module(spec.module), spec.headed)
        if isinstance(module, nn.MultiheadAttention):
            module._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path


@contextlib.contextmanager
def all_headed(model: nn.Module) -> Iterator[frozenset[str]]:
    """Every known attention in a model computes with explicit head sizes inside; gives their names."""
    known = {name: module for name, module in model.named_modules() if head_spec(module) is not None}
    before = [(module, type(module), dict(module.__dict__)) for module in known.values()]
    try:
        for module in known.values():
            as_headed(module)
        yield frozenset(known)
    finally:
        for module, kind, attributes in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _rows(module: nn.Module, spec: HeadSpec) -> int:
    return sum(module.get_parameter(name).shape[0] for name in spec.projections)


def head_attributes(module: nn.Module, spec: HeadSpec, kept: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The number and sizes of the heads that are left.

    Args:
        module: as it is before.
        spec: its kind.
        kept: projection -> the rows that stay; one that is not named keeps all.
    """
    heads = int(getattr(module, spec.count))
    even = _rows(module, spec) // 3 // heads
    size, value = (module.head_dim, module.value_dim) if isinstance(module, Headed) else (even, even)
    stays = np.concatenate([_staying(module.get_parameter(name).shape[0], kept.get(name)) for name in spec.projections])
    # Rows are [queries | keys | values], each heads * size. A
    # head or a position goes as a whole, so any row of it tells.
    query = stays[: heads * size].reshape(heads, size)
    values = stays[2 * heads * size :].reshape(heads, value)
    return {
        spec.count: int(query.any(1).sum()),
        "head_dim": int(query.any(0).sum()),
        "value_dim": int(values.any(0).sum()),
    }


def _staying(rows: int, kept: torch.Tensor | None) -> np.ndarray:
    stays = np.full(rows, kept is None)
    if kept is not None:
        stays[kept.cpu().numpy()] = True
    return stays

"""Attention modules that keep working when they lose heads.

`nn.MultiheadAttention` and the attention of torchvision's Swin and MaxViT derive the size of a head, and with
it the scale of the softmax, from the width of the network, which does not shrink when a head goes. Here: the
same computation with the number and the size of the heads as numbers of their own. The module stays the same
object with the same parameters and hooks; its class becomes a subclass of what it was. Not here: which heads
go. To teach thinning another attention, write a mix-in and enter it in `SPECS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Headed(nn.Module):
    """Marks the subclasses made here. `head_dim` is the size of one head, whatever the width of the network."""

    head_dim: int


class HeadedMultihead(Headed):
    """`nn.MultiheadAttention.forward` with inner width num_heads * head_dim."""

    num_heads: int
    batch_first: bool
    dropout: float
    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: nn.Linear

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Shapes and meaning as in `nn.MultiheadAttention`; (N, L, E) inside."""
        batched, first = query.dim() == 3, self.batch_first
        sources = [_batch_first(x, batched, first) for x in (query, key, value)]
        parts = zip(sources, self.in_proj_weight.chunk(3), self._biases(), strict=True)
        q, k, v = (self._heads(functional.linear(x, weight, bias)) for x, weight, bias in parts)
        mask = self._mask(q, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = functional.dropout(weights, dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), weights
        return (out if first else out.transpose(0, 1)), weights

    def _biases(self) -> list[Tensor | None]:
        return [None] * 3 if self.in_proj_bias is None else list(self.in_proj_bias.chunk(3))

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, heads * size) -> (N, heads, L, size)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Both masks as numbers to add to the scores, (N or 1, heads or 1, L, S)."""
        found = None
        if attn_mask is not None:
            found = _additive(attn_mask, q.dtype)
            found = found.unflatten(0, (-1, self.num_heads)) if found.dim() == 3 else found[None, None]
        if padding is not None:
            extra = _additive(padding if padding.dim() == 2 else padding[None], q.dtype)[:, None, None]
            found = extra if found is None else found + extra
        return found


def _batch_first(x: Tensor, batched: bool, first: bool) -> Tensor:
    if not batched:
        return x.unsqueeze(0)
    return x if first else x.transpose(0, 1)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


class HeadedWindow(Headed):
    """Swin's (shifted) window attention, both versions, with inner width num_heads * head_dim."""

    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> the same shape. Windows of (h, w) pixels attend within themselves."""
        height, width = x.shape[1:3]
        h, w = self.window_size
        x = functional.pad(x, (0, 0, 0, -width % w, 0, -height % h))
        rows, columns = x.shape[1] // h, x.shape[2] // w
        shift = [s if count > 1 else 0 for s, count in zip(self.shift_size, (rows, columns), strict=True)]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        mask = _shift_mask(x, (h, w), shift) if any(shift) else None
        out = _join_windows(self._attend(_windows(x, h, w), mask), rows, columns, h, w)
        if any(shift):
            out = out.roll((shift[0], shift[1]), (1, 2))
        return out[:, :height, :width].contiguous()

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (N * windows, T, C) -> the same shape."""
        qkv = functional.linear(x, self.qkv.weight, self._bias())
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        scale = getattr(self, "logit_scale", None)
        if scale is None:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        else:
            scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * scale.clamp(max=math.log(100.0)).exp()
        scores = scores + self.get_relative_position_bias()  # type: ignore[operator]
        if mask is not None:
            scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask[None, :, None]).flatten(0, 1)
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return functional.dropout(self.proj((weights @ v).transpose(1, 2).flatten(2)), self.dropout, self.training)

    def _bias(self) -> Tensor | None:
        """The second version has no bias for the keys, whatever the parameter holds."""
        bias = self.qkv.bias
        if bias is None or not hasattr(self, "logit_scale"):
            return bias
        q, k, v = bias.chunk(3)
        return torch.cat([q, torch.zeros_like(k), v])


def _windows(x: Tensor, h: int, w: int) -> Tensor:
    """(N, rows*h, columns*w, C) -> (N*rows*columns, h*w, C)."""
    return x.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _join_windows(x: Tensor, rows: int, columns: int, h: int, w: int) -> Tensor:
    """The inverse of `_windows`."""
    return x.unflatten(1, (h, w)).unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _shift_mask(x: Tensor, window: tuple[int, int], shift: list[int]) -> Tensor:
    """-100 between pixels that the shift made neighbours although they are not; (windows, T, T)."""
    regions = x.new_zeros(x.shape[1:3])
    for axis, (size, step) in enumerate(zip(window, shift, strict=True)):
        place = torch.arange(regions.shape[axis], device=x.device) - regions.shape[axis]
        zone = (place >= -size).to(x.dtype) + (place >= -step).to(x.dtype) * (step > 0)
        regions = regions * 3 + (zone[:, None] if axis == 0 else zone)
    flat = _windows(regions[None, :, :, None], *window)[..., 0]
    return torch.zeros_like(flat[:, :, None] - flat[:, None]).masked_fill(flat[:, :, None] != flat[:, None], -100.0)


class HeadedRelative(Headed):
    """MaxViT's attention within a window or a grid, with inner width n_heads * head_dim."""

    n_heads: int
    scale_factor: float
    to_qkv: nn.Linear
    merge: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x (B, G, P, D) -> the same shape."""
        heads = (self.n_heads, self.head_dim)
        q, k, v = (part.unflatten(-1, heads).transpose(2, 3) for part in self.to_qkv(x).chunk(3, dim=-1))
        scores = q @ (k * self.scale_factor).transpose(-2, -1)
        weights = (scores + self.get_relative_positional_bias()).softmax(-1)  # type: ignore[operator]
        out: Tensor = self.merge((weights @ v).transpose(2, 3).flatten(3))
        return out


@dataclass(frozen=True)
class HeadSpec:
    """How one kind of attention holds its heads.

    Attributes:
        mixin: computes with an explicit head size.
        projection: the weight whose rows are query, key and value, each (heads * size).
        count: the attribute that holds the number of heads.
    """

    mixin: type[Headed]
    projection: str
    count: str


SPECS = {
    "torch.nn.modules.activation.MultiheadAttention": HeadSpec(HeadedMultihead, "in_proj_weight", "num_heads"),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": HeadSpec(HeadedWindow, "qkv.weight", "num_heads"),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": HeadSpec(HeadedWindow, "qkv.weight", "num_heads"),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": HeadSpec(
        HeadedRelative, "to_qkv.weight", "n_heads"
    ),
}
"""Exact class of a module -> its heads. By name, so that torchvision need not be there."""


def head_spec(module: nn.Module) -> HeadSpec | None:
    """How this module holds its heads; None if nothing is known of it, or if it has parts that we do not compute."""
    kind = next(kind for kind in type(module).__mro__ if not issubclass(kind, Headed))
    spec = SPECS.get(f"{kind.__module__}.{kind.__qualname__}")
    if spec is None or isinstance(module, Headed) or not isinstance(module, nn.MultiheadAttention):
        return spec
    whole = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
    return spec if whole else None


def as_headed(module: nn.Module) -> None:
    """Turn a module into its subclass with an explicit head size; one that is already stays as it is."""
    spec = head_spec(module)
    assert spec is not None, type(module)
    if not isinstance(module, Headed):
        module.__dict__["head_dim"] = _head_size(module, spec)
        module.__class__ = _subclass(spec.mixin, type(module))
        if isinstance(module, nn.MultiheadAttention):
            module._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path


def _subclass(mixin: type[Headed], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Headed{kind.__name__}", (mixin, kind), {})


def _head_size(module: nn.Module, spec: HeadSpec) -> int:
    rows = module.get_parameter(spec.projection).shape[0]
    return int(rows // 3 // getattr(module, spec.count))


def head_attributes(module: nn.Module, spec: HeadSpec, rows: int) -> dict[str, Any]:
    """The number of heads when `rows` rows of the projection are left."""
    return {spec.count: rows // 3 // _head_size(module, spec)}

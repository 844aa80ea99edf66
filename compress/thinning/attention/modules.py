"""Attention that keeps its own number and size of heads.

What `nn.MultiheadAttention` and the attention of torchvision's Swin (images and video) and MaxViT compute, with the
number of heads, the size of a query and key, the size of a value and the scale of the softmax as numbers of their
own. There these follow from the width of the network, which does not shrink when a head, or a part of every head,
goes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Headed(nn.Module):
    """Base of the mix-ins; the projection's rows are query, key, value, each by heads, each head by its size.

    Attributes:
        head_dim: size of the query and of the key of one head.
        value_dim: size of the value of one head.
        scale: what scores are multiplied with, that of the network before anything went; not every kind needs it.
    """

    head_dim: int
    value_dim: int
    scale: float
    alike_in_training = True  # the same operations in both modes, so one trace is enough

    def _parts(self, heads: int) -> list[int]:
        """Rows of query, key and value."""
        return [heads * self.head_dim, heads * self.head_dim, heads * self.value_dim]


class HeadedMultiheadAttention(Headed, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with inner widths num_heads * head_dim and num_heads * value_dim."""

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
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = functional.dropout(weights, dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), weights
        return (out if first else out.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value, (N, heads, L, size); one product where all three are the same tensor."""
        rows, batched = self._parts(self.num_heads), query.dim() == 3
        packed = self.in_proj_weight
        if packed is not None and query is key and key is value:
            x = _batch_first(query, batched, self.batch_first)
            found = functional.linear(x, packed, self.in_proj_bias).split(rows, -1)
        else:
            separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            weights = separate if packed is None else packed.split(rows)
            biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(rows)
            sources = [_batch_first(x, batched, self.batch_first) for x in (query, key, value)]
            found = [functional.linear(*each) for each in zip(sources, weights, biases, strict=True)]
        sizes = (self.head_dim, self.head_dim, self.value_dim)
        return [x.unflatten(-1, (self.num_heads, size)).transpose(1, 2) for x, size in zip(found, sizes, strict=True)]

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
    """Swin's (shifted) window attention, both versions, with inner widths of its own.

    The second version divides query and key by their lengths over a head: positions that are zero add nothing to a
    length, so they drop out exactly.
    """

    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C), or (N, T, H, W, C) -> the same shape. The pixels of a window attend to one another."""
        sizes = list(x.shape[1:-1])
        window, shift = self._window(sizes)
        dims = tuple(range(1, len(sizes) + 1))
        # -size % edge: what is missing to the next multiple.
        pads = [-size % edge for size, edge in zip(sizes, window, strict=True)]
        x = functional.pad(x, (0, 0, *(each for pad in reversed(pads) for each in (0, pad))))
        counts = [x.shape[dim] // edge for dim, edge in zip(dims, window, strict=True)]
        mask = None
        if any(shift):
            x = x.roll([-step for step in shift], dims)
            mask = _shift_mask(x, window, shift)
        out = _join_windows(self._attend(_windows(x, window), self._position_bias(window), mask), counts, window)
        if any(shift):
            out = out.roll(shift, dims)
        return out[(slice(None), *(slice(size) for size in sizes))].contiguous()

    def _window(self, sizes: list[int]) -> tuple[list[int], list[int]]:
        """Edges of a window, and by how much windows are shifted: not at all along a side that is one window."""
        pairs = zip(self.shift_size, self.window_size, sizes, strict=True)
        return self.window_size, [step if size > edge else 0 for step, edge, size in pairs]

    def _position_bias(self, window: list[int]) -> Tensor:
        """(1, heads, T, T) for the T pixels of a window."""
        return self.get_relative_position_bias()  # type: ignore[operator]

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """x (N * windows, T, C) -> the same shape."""
        parts = functional.linear(x, self.qkv.weight, self._bias()).split(self._parts(self.num_heads), -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        scale = getattr(self, "logit_scale", None)
        if scale is None:
            scores = (q * self.scale) @ k.transpose(-2, -1)
        else:
            scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
            # Cosine attention with a learned temperature, which is not
            # below 0.01 (Liu et al. 2021, Swin V2, arXiv 2111.09883).
            scores = scores * scale.clamp(max=math.log(100.0)).exp()
        scores = scores + bias
        if mask is not None:
            scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask[None, :, None]).flatten(0, 1)
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return functional.dropout(self.proj((weights @ v).transpose(1, 2).flatten(2)), self.dropout, self.training)

    def _bias(self) -> Tensor | None:
        """The second version has no bias for the keys, whatever the parameter holds."""
        bias = self.qkv.bias
        if bias is None or not hasattr(self, "logit_scale"):
            return bias
        q, k, v = bias.split(self._parts(self.num_heads))
        return torch.cat([q, torch.zeros_like(k), v])


class HeadedWindow3d(HeadedWindow):
    """The same over time, height and width (video); a window is never larger than the map."""

    def _window(self, sizes: list[int]) -> tuple[list[int], list[int]]:
        _, shift = super()._window(sizes)
        return [min(pair) for pair in zip(self.window_size, sizes, strict=True)], shift

    def _position_bias(self, window: list[int]) -> Tensor:
        return self.get_relative_position_bias(window)  # type: ignore[operator]


def _windows(x: Tensor, window: list[int]) -> Tensor:
    """(N, rows*h, columns*w, C) -> (N*rows*columns, h*w, C), of any number of dimensions."""
    count = len(window)
    for dim in range(count, 0, -1):
        x = x.unflatten(dim, (-1, window[dim - 1]))
    inside = [2 * dim for dim in range(1, count + 1)]
    x = x.permute(0, *(dim - 1 for dim in inside), *inside, 2 * count + 1)
    return x.flatten(count + 1, 2 * count).flatten(0, count)


def _join_windows(x: Tensor, counts: list[int], window: list[int]) -> Tensor:
    """The inverse of `_windows`; counts: windows along each dimension."""
    count = len(window)
    x = x.unflatten(1, window).unflatten(0, (-1, *counts))
    order = [each for dim in range(1, count + 1) for each in (dim, dim + count)]
    x = x.permute(0, *order, 2 * count + 1)
    for dim in range(1, count + 1):
        x = x.flatten(dim, dim + 1)
    return x


def _shift_mask(x: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """-100 between pixels that the shift made neighbours although they are not; (windows, T, T)."""
    regions = x.new_zeros(x.shape[1:-1])
    for axis, (size, step) in enumerate(zip(window, shift, strict=True)):
        place = torch.arange(regions.shape[axis], device=x.device) - regions.shape[axis]
        zone = (place >= -size).to(x.dtype) + (place >= -step).to(x.dtype) * (step > 0)
        # Three zones along each axis, read as digits to base 3:
        # pixels may attend to each other where their numbers agree.
        regions = regions * 3 + zone.reshape([-1 if dim == axis else 1 for dim in range(regions.dim())])
    flat = _windows(regions[None, ..., None], window)[..., 0]
    return torch.zeros_like(flat[:, :, None] - flat[:, None]).masked_fill(flat[:, :, None] != flat[:, None], -100.0)


class HeadedRelative(Headed):
    """MaxViT's attention within a window or a grid; its scale is a number of its own already."""

    n_heads: int
    scale_factor: float
    to_qkv: nn.Linear
    merge: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x (B, G, P, D) -> the same shape."""
        parts = self.to_qkv(x).split(self._parts(self.n_heads), -1)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(2, 3) for part in parts)
        scores = q @ (k * self.scale_factor).transpose(-2, -1)
        weights = (scores + self.get_relative_positional_bias()).softmax(-1)  # type: ignore[operator]
        out: Tensor = self.merge((weights @ v).transpose(2, 3).flatten(3))
        return out

"""Terms of many weights with their gradients, each one autograd function: no node for every weight and operation.

`sum_of_magnitudes` (L1) and `sum_of_norms` (group lasso); to the bit what the written sums give.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compress.groups import Tile, group_norms, in_tiles


def sum_of_magnitudes(weights: Sequence[Tensor], strengths: Sequence[float]) -> Tensor:
    """The sum over weights of strength * sum |w|, a scalar; the gradient is strength * sign(w)."""
    return _Magnitudes.apply(strengths, *weights)


def sum_of_norms(weights: Sequence[Tensor], strengths: Sequence[float], tiles: Sequence[Tile]) -> Tensor:
    """The sum over weights and groups of strength * L2 norm, a scalar; a group of zeros has no gradient.

    Args:
        weights: a weight may be there several times, with other tiles.
        strengths: one a weight.
        tiles: of each weight's groups.
    """
    # Backwards, because autograd adds the gradients of a weight in the order of a function's inputs, and those of
    # functions that were called later first.
    return _Norms.apply(strengths[::-1], tiles[::-1], *weights[::-1])


class _Magnitudes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, strengths: Sequence[float], *weights: Tensor) -> Tensor:
        ctx.strengths = list(strengths)
        ctx.save_for_backward(*weights)
        sums = [each.abs().sum() * strength for each, strength in zip(weights, strengths, strict=True)]
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = torch._foreach_sign(list(ctx.saved_tensors))
        alike: dict[tuple[torch.dtype, torch.device, float], list[Tensor]] = {}
        for sign, strength in zip(found, ctx.strengths, strict=True):
            alike.setdefault((sign.dtype, sign.device, strength), []).append(sign)
        for (_, _, strength), signs in alike.items():
            torch._foreach_mul_(signs, _factor(grad, strength, signs[0]))
        return (None, *found)


def _factor(grad: Tensor, strength: float, like: Tensor) -> Tensor:
    """Of a gradient: in the weight's type first, as the sum of terms of several types passes it on."""
    return grad.to(like.dtype) * strength


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, strengths: Sequence[float], tiles: Sequence[Tile], *weights: Tensor) -> Tensor:
        norms = [group_norms(each, tile, 2) for each, tile in zip(weights, tiles, strict=True)]
        ctx.strengths, ctx.tiles = strengths, tiles
        ctx.save_for_backward(*weights, *norms)
        sums = [each.sum() * strength for each, strength in zip(norms, strengths, strict=True)]
        return torch.stack(sums[::-1]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.tiles)
        weights, norms = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        found: list[Tensor | None] = [None, None]
        for weight, norm, tile, strength in zip(weights, norms, ctx.tiles, ctx.strengths, strict=True):
            view = in_tiles(weight, tile)
            whole = torch.where(norm == 0, torch.inf, norm)  # so that a group of zeros has the gradient 0
            shape = [size if i % 2 == 0 else 1 for i, size in enumerate(view.shape)]
            found.append((view / whole.reshape(shape)).mul_(_factor(grad, strength, weight)).reshape(weight.shape))
        return tuple(found)

"""Weights as int8: the integers that a file stores and the scales that give the values back.

`int8_form` and `fitted`, pure mathematics.

Kernels want a symmetric form, value = scale * integer, one scale per output channel. Nearly every grid has one
exactly, because only the differences count: DoReFa's k-bit weights are odd integers over 2^k - 1, which fit int8 for
k up to 7, and a masked weight is the integer 0. What has none is stored as the nearest form, and its error is
returned, never passed over.

Small integers are stored as larger ones over a finer scale, because onnxruntime rounds a bias to multiples of input
scale x weight scale: 1 to 7, of 3-bit weights, become 8 to 56.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.quantization.functions import usable
from compress.quantization.grid import Grid

LARGEST = 127
LARGEST_BIAS = 2**30  # over input scale x weight scale: half of what 32 bits hold, since the products are added
REDUCED = 63  # two products of 8 x 7 bits and their sum fit 16 bits
_ON_GRID = 1e-3  # of a step: float32 noise of values that are on their grid


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """A weight as int8.

    Attributes:
        integers: int8, of the weight's shape.
        scale: float32, > 0; shape () or (channels,). Below 0 only where -128 had to be turned round, which int8 cannot.
        zero_point: int8, of scale's shape; the integer of 0.0.
        axis: the dimension that `scale` runs along; None for one scale.
        error: largest absolute difference between the weight and what is stored; 0 if it is exact to float32.
        relative_error: the same over the weight's largest absolute value.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int | None
    error: float
    relative_error: float

    @property
    def exact(self) -> bool:
        """Whether the integers stand for the very values."""
        return self.error == 0.0

    def values(self) -> Tensor:
        """The values that the file's reader sees, float32."""
        scale, zero = _along(self.scale, self.integers, self.axis), _along(self.zero_point, self.integers, self.axis)
        return (self.integers.float() - zero.float()) * scale


def int8_form(
    values: Tensor,
    grid: Grid | None,
    channel_axis: int = 0,
    stretch: Tensor | None = None,
    reduce_range: bool = False,
) -> Int8Weight:
    """The int8 form of a quantized weight: exact where there is one, else the nearest symmetric one.

    Args:
        values: the weight, on its grid (exact zeros may lie beside it).
        grid: of `values / stretch`; None where it has no affine one.
        channel_axis: the dimension that the nearest form's scales run along.
        stretch: what grid values were multiplied with, a factor per channel in a shape that broadcasts (a BatchNorm's
            1 / scale); its sign is taken up by the integers.
        reduce_range: integers in [-63, 63], so that no kernel saturates; a wider grid loses its last bit.
    """
    values = values.detach().float().cpu()
    limit = REDUCED if reduce_range else LARGEST
    forms = _exact_forms(values, grid, stretch, limit) if grid is not None else []
    found = next((form for form in forms if form is not None), None)
    return _finer(found) if found is not None else _nearest(values, channel_axis, limit)


def fitted(
    integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int, bias: Tensor, input_scale: float
) -> tuple[Tensor, Tensor] | None:
    """Integers and scales of a weight so coarse that 32 bits hold the layer's bias; None where they are already.

    Integer kernels keep a bias as a multiple of input scale x weight scale, and cut off what exceeds 32 bits: beside
    weights that are next to nothing. What those lose is at most half a scale each: with inputs of 8 bits and n weights
    less than n * 2**-23 of the bias, while the rounding of an output to 8 bits takes 2**-9 of the largest value.

    Args:
        integers: int8.
        scale: of shape (channels,).
        zero_point: of shape (channels,).
        axis: the integers' dimension of channels.
        bias: of shape (channels,) or (1,).
        input_scale: of the grid of the layer's inputs.
    """
    least = bias.detach().double().abs() / (input_scale * LARGEST_BIAS)
    exact = scale.double()
    if bool((exact.abs() >= least).all()):
        return None
    coarse = (torch.where(exact < 0, -1.0, 1.0) * torch.maximum(exact.abs(), least)).float()
    zero, before, after = (_along(each.double(), integers, axis) for each in (zero_point, exact, coarse))
    return ((integers - zero) * before / after + zero).round().to(torch.int8), coarse


def _exact_forms(values: Tensor, grid: Grid, stretch: Tensor | None, limit: int) -> list[Int8Weight | None]:
    step, axis = _steps(grid, stretch, values)
    # Half steps, for a grid that is symmetric about 0 without holding it: -1.5, -0.5, 0.5 steps are -3, -1, 1 halves.
    forms = [_symmetric(values, step, axis, limit), _symmetric(values, step / 2, axis, limit)]
    if limit == REDUCED:
        return forms
    turned = 1.0 if stretch is None else torch.where(stretch.detach().float().cpu().flatten() < 0, -1.0, 1.0)
    return [*forms, _shifted(values, grid, step * turned, axis)]


def _steps(grid: Grid, stretch: Tensor | None, values: Tensor) -> tuple[Tensor, int | None]:
    """Scale and axis of the values themselves; 1 for channels of nothing but zeros (masked ones).

    Their own scale may be next to nothing, and then a bias over it does not fit 32 bits.
    """
    step, axis = grid.scale.detach().float().cpu(), grid.axis
    if stretch is not None:
        factors = stretch.detach().float().cpu().abs()
        axis = next((i for i in range(values.dim()) if factors.shape[i] > 1), axis or 0)
        step = step * factors.flatten()
    if axis is not None and step.dim():
        others = [i for i in range(values.dim()) if i != axis]
        step = torch.where(values.abs().amax(others) > 0, step, 1.0)
    return step, axis


def _symmetric(values: Tensor, step: Tensor, axis: int | None, limit: int) -> Int8Weight | None:
    """value = step * integer, if all integers are within the limit."""
    exact = values / _along(step, values, axis)
    integers = exact.round()
    if not bool((integers.abs() <= limit).all()) or not bool(((exact - integers).abs() <= _ON_GRID).all()):
        return None
    zero = torch.zeros_like(step, dtype=torch.int8)
    return Int8Weight(integers.to(torch.int8), step, zero, axis, 0.0, 0.0)


def _finer(weight: Int8Weight) -> Int8Weight:
    """The same values: the integers times a power of two, which the scales are divided by; a power for each scale.

    Up to `REDUCED`, so that narrow weights keep saturating nowhere. A channel of zeros keeps its scale.
    """
    if bool(weight.zero_point.any()):
        return weight
    sizes = weight.integers.int().abs()
    others = [i for i in range(sizes.dim()) if i != weight.axis]
    largest = sizes.amax(others) if weight.axis is not None and weight.scale.dim() else sizes.max()
    # A power of two: the scale is divided without rounding.
    room = torch.log2(REDUCED / largest.clamp_min(1)).floor().clamp_min(0)
    factor = torch.where(largest > 0, 2**room, 1.0)
    integers = weight.integers * _along(factor, weight.integers, weight.axis)
    return replace(weight, integers=integers.to(torch.int8), scale=weight.scale / factor)


def _shifted(values: Tensor, grid: Grid, step: Tensor, axis: int | None) -> Int8Weight | None:
    """An asymmetric grid of at most 256 integers with one zero point for all channels, moved into [-128, 127]."""
    zeros = grid.zero_point.cpu().unique()
    shift = grid.low + 128
    # onnxruntime takes one zero point for a whole weight in its integer kernels, and it has to be an int8 itself.
    if grid.high - grid.low > 255 or len(zeros) != 1 or not grid.low <= int(zeros[0]) <= grid.high:
        return None
    exact = values / _along(step, values, axis)
    integers = exact.round() + int(zeros[0]) - shift
    fits = bool(((integers >= -128) & (integers <= 127)).all())
    if not fits or not bool(((exact - exact.round()).abs() <= _ON_GRID).all()):
        return None
    zero = torch.full_like(step, int(zeros[0]) - shift, dtype=torch.int8)
    return Int8Weight(integers.to(torch.int8), step, zero, axis, 0.0, 0.0)


def _nearest(values: Tensor, axis: int | None, limit: int) -> Int8Weight:
    """The symmetric form that reaches each channel's largest value."""
    axis = 0 if axis is None else axis
    others = tuple(i for i in range(values.dim()) if i != axis)
    largest = values.abs().amax(others) if others else values.abs()
    scale = usable(largest / limit)
    integers = (values / _along(scale, values, axis)).round().clamp(-limit, limit).to(torch.int8)
    error = float((integers.float() * _along(scale, values, axis) - values).abs().max())
    zero = torch.zeros_like(scale, dtype=torch.int8)
    return Int8Weight(integers, scale, zero, axis, error, error / max(float(largest.max()), 1e-30))


def _along(vector: Tensor, tensor: Tensor, axis: int | None) -> Tensor:
    if axis is None or vector.dim() == 0:
        return vector
    shape = [1] * tensor.dim()
    shape[axis] = -1
    return vector.reshape(shape)

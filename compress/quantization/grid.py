"""The numbers that a quantizer can yield: an affine grid of integers.

`Grid`. Called where integers are needed: by the exporters, the reports and the tests.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Every value is scale * (integer - zero_point), the integer in [low, high].

    Attributes:
        scale: the distance of neighbouring integers' values, > 0; shape () or (channels,).
        zero_point: the integer that stands for 0.0, of scale's shape, int64.
        low: the smallest integer.
        high: the largest integer.
        axis: the dimension of the tensor that `scale` runs along; None for one scale.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None = None

    @property
    def fits_int8(self) -> bool:
        """Whether the integers fit int8 as they are."""
        return self.low >= -128 and self.high <= 127

    @property
    def fits_uint8(self) -> bool:
        """Whether the integers fit uint8 as they are."""
        return self.low >= 0 and self.high <= 255

    def integers(self, values: Tensor) -> Tensor:
        """The nearest integers (int64, of the values' shape); ties go to even, what lies outside to the end."""
        scale, zero_point = self._along(values)
        return (torch.round(values / scale) + zero_point).clamp_(self.low, self.high).to(torch.int64)

    def values(self, integers: Tensor) -> Tensor:
        """The values (of scale's type) that integers stand for."""
        scale, zero_point = self._along(integers)
        return (integers - zero_point) * scale

    def clip_range(self) -> tuple[float, float]:
        """The smallest and the largest value; of all channels together when there are several."""
        low, high = self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)
        return float(low.min()), float(high.max())

    def _along(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point in a shape that broadcasts against a tensor."""
        scale, zero_point = self.scale.detach(), self.zero_point
        if self.axis is None:
            return scale, zero_point
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        return scale.reshape(shape), zero_point.reshape(shape)

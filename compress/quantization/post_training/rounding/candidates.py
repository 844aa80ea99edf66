"""What the ways of rounding a layer's weights share: the grid around them, what the layer reads, what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.quantization.modules.layers import QuantLayer
from compress.quantization.post_training.folding import along


@dataclass(frozen=True)
class LayerResult:
    """Of one layer.

    Attributes:
        name: of the layer.
        nearest: mean square error of its output with weights rounded to nearest.
        learned: the same with the rounding that was found.
        changed: share of the weights that are not rounded to nearest now, [0, 1].
    """

    name: str
    nearest: float
    learned: float
    changed: float


class Candidates:
    """A weight and its two neighbours on the grid.

    Args:
        layer: with a weight quantizer that has a range.
    """

    def __init__(self, layer: QuantLayer) -> None:
        assert layer.weight_quantizer is not None
        self.weight = layer.weight.detach().clone()
        self.grid = layer.weight_quantizer.grid()
        assert self.grid is not None, "a post-training range is a grid"
        shape: Sequence[int] = [] if self.grid.axis is None else along(self.weight, self.grid.axis)
        self.scale, self.zero = self.grid.scale.reshape(shape), self.grid.zero_point.reshape(shape)
        ratio = self.weight / self.scale
        self.down = torch.floor(ratio)
        self.fraction = ratio - self.down

    def values(self, up: Tensor) -> Tensor:
        """The weight with `up` in [0, 1] added to what it is rounded down to, within the grid; zeros stay zero."""
        assert self.grid is not None
        multiples = torch.clamp(self.down + up, self.grid.low - self.zero, self.grid.high - self.zero)
        return torch.where(self.weight == 0, 0.0, multiples * self.scale)

    def nearest(self) -> Tensor:
        """The weight rounded to nearest."""
        # Not `fraction >= 0.5`: torch rounds ties to even, and so does the quantizer.
        return self.values(torch.round(self.down + self.fraction) - self.down)


@torch.no_grad()
def rounded_input(layer: Any, x: Tensor) -> Tensor:
    """What the layer computes with, of what it is given."""
    quantizer = layer.input_quantizer
    return x if quantizer is None else quantizer(x)

"""Biases: one linear scale, whatever the weights' algorithm.

`LinearBias`.
"""

import torch
from torch import Tensor

from compress.quantization.fake_quant import Pieces, WeightQuantizer, constant
from compress.quantization.functions import straight_through, usable
from compress.quantization.grid import Grid


@Pieces.register
class LinearBias(WeightQuantizer):
    """A bias, symmetric and linear: multiples of max |b| / (2^(bits - 1) - 1), one scale; 1 bit: its sign.

    Args:
        bits: 1 to 16.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("step", constant(1.0))

    step: Tensor

    @property
    def _high(self) -> int:
        return max(2 ** (self.bits - 1) - 1, 1)

    def start(self, weight: Tensor) -> None:
        """The scale of the bias as it is."""
        self.refresh(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded bias."""
        if self.training:
            self.refresh(weight)
        with torch.no_grad():
            values = torch.round(weight / self.step).clamp_(-self._high, self._high).mul_(self.step)
        return straight_through(weight, values)

    def grid(self) -> Grid:
        """Multiples of the scale."""
        return Grid(self.step, torch.zeros((), dtype=torch.int64, device=self.step.device), -self._high, self._high)

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """The scale of the bias as it is."""
        if self.frozen:
            return
        self.step.copy_(usable(weight.abs().max() / self._high))

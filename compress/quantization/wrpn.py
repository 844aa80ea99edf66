"""WRPN: `WRPNQuantizer`, weights clipped to [-1, 1].

The quantization scheme of arXiv 1709.01134.
"""

from typing import Any

import torch
from torch import Tensor

from compress.quantization.base import Quantizer
from compress.quantization.decision import Bits, Overrides
from compress.quantization.dorefa import FixedRangeActivation
from compress.quantization.fake_quant import FakeQuantizer, Pieces, WeightQuantizer, constant
from compress.quantization.functions import fake_quantize
from compress.quantization.grid import Grid
from compress.registry import QUANTIZERS


@Pieces.register
class UnitRangeWeight(WeightQuantizer):
    """Clips to [-1, 1] and rounds to multiples of 1 / (2^(bits - 1) - 1) (arXiv 1709.01134, section 3).

    Args:
        bits: 2 to 16.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self._high = 2 ** (bits - 1) - 1
        self.register_buffer("step", constant(1.0 / self._high), persistent=False)

    step: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of its shape."""
        return fake_quantize(weight, self.step, -self._high, self._high)

    def unrounded(self, x: Tensor) -> Tensor:
        """Clipped."""
        return x.clamp(-1.0, 1.0)

    def grid(self) -> Grid:
        """Always the same."""
        zero = torch.zeros((), dtype=torch.int64, device=self.step.device)
        return Grid(self.step, zero, -self._high, self._high)


@QUANTIZERS.register
class WRPNQuantizer(Quantizer):
    """Weights and biases clipped to [-1, 1], activations clipped to [0, 1], all rounded linearly.

    Paper: Mishra et al. 2017, WRPN: Wide Reduced-Precision Networks, arXiv 1709.01134, section 3; layers are not made
    wider, as in Distiller. What differs: signed activations are clipped to [-1, 1] instead of losing everything below
    zero; and weights are multiples of 1 / (2^(bits - 1) - 1), the paper's formula, where Distiller's levels reach
    beyond the clip (1.33 at 2 bits). Weights of one bit, which the paper takes from another one, are refused.

    When to use: to compare with published figures; weights near zero lose everything at few bits, which DoReFa avoids.

    Sample:
        quantizers:
          wrpn:
            class: WRPNQuantizer
            bits_activations: 8
            bits_weights: 4

    Args:
        bits_activations: bits of activations, 1 to 8 or 16; 32 leaves them float.
        bits_weights: bits of weights, 2 to 8 or 16; 32 leaves them float.
        bits_bias: bits of biases; null leaves them float.
        quantize_bias: true takes `bits_weights` for biases where `bits_bias` is not given.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`.
        first_last_bits: bits of the first and last layer's weights, 32 for float; null treats them as the others.
        example_inputs: what the network is traced with, given by the builder.
    """

    quantizes_model_input = False
    fewest_weight_bits = 2

    def __init__(
        self,
        bits_activations: Bits = 32,
        bits_weights: Bits = 32,
        bits_bias: Bits = None,
        quantize_bias: bool | None = None,
        overrides: Overrides = None,
        first_last_bits: Bits = None,
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_weights, bits_bias, quantize_bias, overrides, first_last_bits, example_inputs
        )

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """Clipped to [-1, 1]."""
        return UnitRangeWeight(bits)

    def bias_piece(self, bits: int) -> FakeQuantizer:
        """As the weights."""
        return UnitRangeWeight(bits)

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """Clipped to [0, 1] or [-1, 1]."""
        return FixedRangeActivation(bits, signed)

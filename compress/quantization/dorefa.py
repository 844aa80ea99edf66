"""DoReFa-Net: `DorefaQuantizer`, and its weights and activations, which PACT shares in part.

Eq. 7 to 11 of arXiv 1606.06160 but for its quantized gradients.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.quantization.base import Quantizer
from compress.quantization.decision import Bits, Decision, Overrides
from compress.quantization.fake_quant import (
    ActivationQuantizer,
    FakeQuantizer,
    Pieces,
    WeightQuantizer,
    constant,
    integer_range,
)
from compress.quantization.functions import fake_quantize, squeezed_quantize, straight_through
from compress.quantization.grid import Grid
from compress.quantization.modules.layers import kind_of
from compress.quantization.placement.inputs import Graph
from compress.registry import QUANTIZERS
from compress.selectors import submodule

WeightScale = Literal["unit", "max"]


def unit_scale_warnings(model: nn.Module, decided: Decision, graph: Graph | None, scale: WeightScale) -> list[str]:
    """A warning where layers with weights of `unit` scale have no normalisation behind, by how much they grow."""
    growing = {name: _growth(model, name, slots) for name, slots in decided.items()}
    reached = decided if graph is None else graph.unnormed
    if graph is None and any("Norm" in type(module).__name__ for module in model.modules()):
        return []
    factors = {name: growing[name] for name in reached if growing.get(name, 0.0) > 0.0}
    if scale == "max" or not factors:
        return []
    names = [f"{name} ({factor:.3g} times)" for name, factor in factors.items()]
    return [
        f"{len(names)} layers have no normalisation (BatchNorm, LayerNorm, ...) behind, and weight_scale: unit makes "
        "the largest weight of each 1, so that what they compute grows, and training is likely to diverge: "
        f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}. Set weight_scale: max, which keeps each "
        "layer's largest weight, put a BatchNorm behind each, or use LSQQuantizer or "
        "QuantAwareTrainRangeLinearQuantizer"
    ]


def _growth(model: nn.Module, name: str, slots: Mapping[str, tuple[Any, ...]]) -> float:
    """How many times larger a layer's weights become with a largest one of 1; 0 where they do not, or by 1 bit."""
    layer = submodule(model, name)
    own = [slot.removesuffix("_quantizer") for slot, spec in slots.items() if kind_of(slot) == "weight" and spec[0] > 1]
    largest = [float(layer.get_parameter(each).detach().abs().max()) for each in own]
    return max((1.0 / each for each in largest if 0.0 < each < 0.8), default=0.0)


@Pieces.register
class DorefaWeight(WeightQuantizer):
    """arXiv 1606.06160, eq. 9: tanh(w) / max |tanh(w)| rounded to odd multiples of 1 / (2^bits - 1); 1 bit: eq. 7.

    One bit is sign(w) times the mean |w|. What is exactly zero stays zero, which the paper's grid has not, and does not
    count in that mean.

    Args:
        bits: 1 to 16.
        scale: `unit` as in the paper: the largest weight becomes 1. `max`: the result is multiplied by max |w|, so
            that the layer keeps its magnitude; for networks without BatchNorm.
    """

    def __init__(self, bits: int, scale: WeightScale = "unit") -> None:
        super().__init__(bits)
        self.scale = scale
        self.register_buffer("magnitude", constant(1.0))

    magnitude: Tensor

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "scale": self.scale}

    def start(self, weight: Tensor) -> None:
        """The magnitude of the weight as it is."""
        self.refresh(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of its shape."""
        if self.training:
            self.refresh(weight)
        if self.bits == 1:
            return straight_through(weight, weight.detach().sign() * self.magnitude)
        return squeezed_quantize(weight, 2**self.bits - 1, self.magnitude, rescale=self.scale == "max")

    def unrounded(self, x: Tensor) -> Tensor:
        """Squeezed by tanh; of 1 bit the weight itself, which that method only gives another magnitude."""
        squeezed = torch.tanh(x)
        return x if self.bits == 1 else squeezed * (self.magnitude / squeezed.abs().amax().clamp_min(1e-12))

    def grid(self) -> Grid | None:
        """Odd integers over 2^bits - 1, and 0; None for more than 7 bits, whose integers do not fit int8."""
        if self.bits > 7:
            return None
        levels = 2**self.bits - 1
        zero = torch.zeros((), dtype=torch.int64, device=self.magnitude.device)
        return Grid(self.magnitude / levels, zero, -levels, levels)

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """The magnitude of the weight as it is."""
        if self.frozen:
            return
        if self.bits == 1:
            # The mean over what is not pruned: with zeros counted, the magnitude would shrink with the sparsity.
            self.magnitude.copy_(weight.abs().sum() / torch.count_nonzero(weight).clamp_min(1))
        elif self.scale == "max":
            self.magnitude.copy_(weight.abs().max())


@Pieces.register
class FixedRangeActivation(ActivationQuantizer):
    """Clips to [0, 1] and rounds to multiples of 1 / (2^bits - 1) (arXiv 1606.06160, eq. 11 and section 2.5).

    After a signed activation it clips to [-1, 1] and rounds to multiples of 1 / (2^(bits - 1) - 1).

    Args:
        bits: 1 to 16; at least 2 when signed.
        signed: whether values below zero are to be kept.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__(bits, signed)
        self._low, self._high = integer_range(bits, signed)
        self.register_buffer("step", constant(1.0 / self._high), persistent=False)

    step: Tensor

    def become_signed(self) -> None:
        """[-1, 1] instead of [0, 1]."""
        super().become_signed()
        self._low, self._high = integer_range(self.bits, True)
        self.step.fill_(1.0 / self._high)

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation, of its shape."""
        return fake_quantize(x, self.step, self._low, self._high)

    def unrounded(self, x: Tensor) -> Tensor:
        """Clipped: training has adapted the network to it."""
        return x.clamp(*self.clip_range())

    def grid(self) -> Grid:
        """Always the same."""
        zero = torch.zeros((), dtype=torch.int64, device=self.step.device)
        return Grid(self.step, zero, self._low, self._high)


@QUANTIZERS.register
class DorefaQuantizer(Quantizer):
    """Weights squeezed by tanh to [-1, 1], activations clipped to [0, 1], both rounded to k bits.

    Paper: Zhou et al. 2016, DoReFa-Net, arXiv 1606.06160, eq. 7 to 11; gradients stay float, as in Distiller. What
    differs: a zero weight stays zero (masks hold); signed activations (PReLU, GELU, a sum, ...) are clipped to [-1, 1]
    and rounded symmetrically instead of losing everything below zero; a bias is rounded linearly, because tanh and the
    division by the largest would replace it by another.

    When to use: very few bits, weights above all. It has no ranges to learn, so it needs a network whose activations
    suit [0, 1]: BatchNorm in front of them, or training from the start.

    Sample:
        quantizers:
          dorefa:
            class: DorefaQuantizer
            bits_activations: 8
            bits_weights: 4
            overrides: {conv1: null}

    Args:
        bits_activations: bits of activations, 1 to 8 or 16; 32 leaves them float.
        bits_weights: bits of weights, likewise.
        bits_bias: bits of biases; null leaves them float.
        quantize_bias: true takes `bits_weights` for biases where `bits_bias` is not given.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`.
        first_last_bits: bits of the first and last layer's weights, 32 for float; null treats them as the others.
        weight_scale: `unit` as in the paper, `max` keeps each layer's largest weight, for networks without BatchNorm.
        example_inputs: what the network is traced with, given by the builder.
    """

    quantizes_model_input = False

    def __init__(
        self,
        bits_activations: Bits = 32,
        bits_weights: Bits = 32,
        bits_bias: Bits = None,
        quantize_bias: bool | None = None,
        overrides: Overrides = None,
        first_last_bits: Bits = None,
        weight_scale: WeightScale = "unit",
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_weights, bits_bias, quantize_bias, overrides, first_last_bits, example_inputs
        )
        self.weight_scale = weight_scale

    def warnings(self, model: nn.Module, decided: Decision, graph: Graph | None) -> list[str]:
        """Layers whose output grows with their weights."""
        return unit_scale_warnings(model, decided, graph, self.weight_scale)

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """DoReFa's weights."""
        return DorefaWeight(bits, self.weight_scale)

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """Clipped to [0, 1] or [-1, 1]."""
        return FixedRangeActivation(bits, signed)

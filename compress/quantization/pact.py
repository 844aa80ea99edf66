"""PACT: `PACTQuantizer` and its learned clip of activations.

ArXiv 1805.06085.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.quantization.base import Quantizer
from compress.quantization.decision import Bits, Decision, Overrides
from compress.quantization.dorefa import DorefaWeight, WeightScale, unit_scale_warnings
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, Learned, Pieces, integer_range
from compress.quantization.functions import at_least, clipped_quantize
from compress.quantization.grid import Grid
from compress.quantization.placement.inputs import Graph
from compress.registry import QUANTIZERS

SMALLEST_CLIP = 1e-4


@Pieces.register
class ClippedActivation(Learned, ActivationQuantizer):
    """Clips to [0, clip] and rounds to multiples of clip / (2^bits - 1) (arXiv 1805.06085, eq. 1 to 3).

    After a signed activation the range is [-clip, clip] and the steps clip / (2^(bits - 1) - 1). The clip's gradient is
    1 where x >= clip (-1 where x <= -clip), 0 elsewhere.

    Args:
        bits: 1 to 16; at least 2 when signed.
        signed: whether values below zero are to be kept.
        init: the clip that training starts from, > 0.
    """

    scale, least, up = "clip", SMALLEST_CLIP, 2.0  # above all values the clip has no gradient that would lead it back

    def __init__(self, bits: int, signed: bool, init: float = 8.0) -> None:
        super().__init__(bits, signed)
        self.init = init
        self._low, self._high = integer_range(bits, signed)
        self.clip = nn.Parameter(torch.tensor(float(init)))

    def become_signed(self) -> None:
        """The clip stays, on either side of zero."""
        super().become_signed()
        self._low, self._high = integer_range(self.bits, True)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().settings(), "init": self.init}

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation, of its shape."""
        return clipped_quantize(x, at_least(self.clip, SMALLEST_CLIP), self._low, self._high, led_back=True)

    def unrounded(self, x: Tensor) -> Tensor:
        """Clipped: the clip was learned with the weights."""
        return x.clamp(*self.clip_range())

    def grid(self) -> Grid:
        """Of the clip as it is now."""
        step = self.clip.detach().clamp_min(SMALLEST_CLIP) / self._high
        return Grid(step, torch.zeros((), dtype=torch.int64, device=step.device), self._low, self._high)


@QUANTIZERS.register
class PACTQuantizer(Quantizer):
    """Activations clipped at a value that is learned with the weights; weights as DoReFa's.

    Paper: Choi et al. 2018, PACT, arXiv 1805.06085, eq. 1 to 3; the L2 penalty on the clips of section 3.2 is the
    weight decay of their own optimizer group. What differs: signed activations get the range [-clip, clip]; one update
    of the optimizer doubles or halves a clip at most, and a clip that clips everything, or rounds
    everything to 0, is led back.

    When to use: few bits for activations; it finds each layer's range by itself, where DoReFa takes [0, 1].

    Sample:
        quantizers:
          pact:
            class: PACTQuantizer
            bits_activations: 4
            bits_weights: 4
            act_clip_init_val: 8.0
            act_clip_decay: 0.0002
            overrides: {'conv1|fc': {bits_weights: 8}}

    Args:
        bits_activations: bits of activations, 1 to 8 or 16; 32 leaves them float.
        bits_weights: bits of weights, likewise.
        bits_bias: bits of biases; null leaves them float.
        quantize_bias: true takes `bits_weights` for biases where `bits_bias` is not given.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`.
        act_clip_init_val: the clip that training starts from, > 0; hidden states of LSTM, GRU and RNN with tanh, which
            lie in (-1, 1), start from 1 at most.
        act_clip_decay: weight decay of the clips, >= 0; null takes the optimizer's own.
        act_clip_lr: learning rate of the clips, >= 0; null takes the optimizer's own.
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
        act_clip_init_val: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 8.0,
        act_clip_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None,
        act_clip_lr: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None,
        first_last_bits: Bits = None,
        weight_scale: WeightScale = "unit",
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_weights, bits_bias, quantize_bias, overrides, first_last_bits, example_inputs
        )
        self.act_clip_init_val = act_clip_init_val
        self.weight_scale = weight_scale
        self.group_options = {"weight_decay": act_clip_decay, "lr": act_clip_lr}

    def warnings(self, model: nn.Module, decided: Decision, graph: Graph | None) -> list[str]:
        """Layers whose output grows with their weights."""
        return unit_scale_warnings(model, decided, graph, self.weight_scale)

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """DoReFa's weights."""
        return DorefaWeight(bits, self.weight_scale)

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """A learned clip."""
        return ClippedActivation(bits, signed, self.act_clip_init_val)

    def hidden_piece(self, bits: int, bounded: bool) -> FakeQuantizer:
        """A learned clip, which starts from 1 where no state is larger."""
        init = min(1.0, self.act_clip_init_val) if bounded else self.act_clip_init_val
        return ClippedActivation(bits, True, init)

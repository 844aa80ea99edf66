"""LSQ: `LSQQuantizer` and its learned step sizes.

ArXiv 1902.08153.
"""

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.distributed import sum_over_ranks
from compress.parameters import replace_data
from compress.quantization.base import Quantizer
from compress.quantization.decision import Bits, Overrides
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, Learned, Pieces, WeightQuantizer
from compress.quantization.functions import at_least, fake_quantize
from compress.quantization.grid import Grid
from compress.registry import QUANTIZERS

SMALLEST_STEP = 1e-8


def first_step(x: Tensor, high: int, axis: int | None = None) -> Tensor:
    """2 mean |x| / sqrt(high) (arXiv 1902.08153, section 2.1), of shape () or (channels,); 1 / high where all are 0."""
    mean = x.detach().abs().mean() if axis is None else x.detach().abs().movedim(axis, 0).flatten(1).mean(1)
    return torch.where(mean > 0, (2.0 * mean / math.sqrt(high)).clamp_min(SMALLEST_STEP), 1.0 / high)


@Pieces.register
class LearnedStepWeight(Learned, WeightQuantizer):
    """Multiples of a learned step, from -2^(bits - 1) to 2^(bits - 1) - 1 (arXiv 1902.08153, eq. 1 to 4).

    Args:
        bits: 2 to 16.
        axis: the dimension of output channels, each with a step of its own; None for one step, as in the paper.
    """

    scale, least = "step", SMALLEST_STEP
    counts_elements: ClassVar[bool] = True  # of which a thinning leaves fewer

    def __init__(self, bits: int, axis: int | None = None) -> None:
        super().__init__(bits)
        self.axis = axis
        self._low, self._high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.step = nn.Parameter(torch.ones(()))

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "axis": self.axis}

    def start(self, weight: Tensor) -> None:
        """The first step; the parameter stays the same object and takes the shape that fits the weight as it is now."""
        replace_data(self.step, first_step(weight, self._high, self.axis))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of its shape."""
        step = at_least(self.step, SMALLEST_STEP)
        # g = 1 / sqrt(N Q_P) (section 2.2): N weights share one step; for activations N is the features of one sample.
        count = weight.numel() / step.numel()
        if self.axis is not None:
            shape = [1] * weight.dim()
            shape[self.axis] = -1
            step = step.reshape(shape)
        return fake_quantize(weight, step, self._low, self._high, 1.0 / math.sqrt(count * self._high), led_back=True)

    def grid(self) -> Grid:
        """Of the steps as they are now."""
        step = self.step.detach().clamp_min(SMALLEST_STEP)
        return Grid(step, torch.zeros_like(step, dtype=torch.int64), self._low, self._high, axis=self.axis)


@Pieces.register
class LearnedStepActivation(Learned, ActivationQuantizer):
    """Multiples of a learned step from 0 to 2^bits - 1, or if signed from -2^(bits - 1) to 2^(bits - 1) - 1.

    The step starts from the first minibatch of finite values that is seen in training; before it the activation passes
    as it is.

    Args:
        bits: 1 to 16; at least 2 when signed.
        signed: whether values below zero are to be kept.
    """

    scale, least = "step", SMALLEST_STEP
    counts_elements: ClassVar[bool] = True  # of which a thinning leaves fewer

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__(bits, signed)
        self._set_integers()
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._has_step = False

    started: Tensor

    def _set_integers(self) -> None:
        self._low: int = -(2 ** (self.bits - 1)) if self.signed else 0
        self._high: int = self._low + 2**self.bits - 1

    def become_signed(self) -> None:
        """The step starts anew from the next minibatch."""
        super().become_signed()
        self._set_integers()
        self.started.fill_(False)
        self._has_step = False

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation, of its shape."""
        if not self._has_step and not self._begin(x):
            return x if self.signed else x.clamp_min(0)
        features = x.numel() // (x.shape[0] if x.dim() else 1) if x.numel() else 1
        factor = 1.0 / math.sqrt(features * self._high)
        return fake_quantize(x, at_least(self.step, SMALLEST_STEP), self._low, self._high, factor, led_back=True)

    def grid(self) -> Grid | None:
        """Of the step as it is now; None before the first minibatch."""
        if not bool(self.started):
            return None
        step = self.step.detach().clamp_min(SMALLEST_STEP)
        return Grid(step, torch.zeros_like(step, dtype=torch.int64), self._low, self._high)

    @torch.compiler.disable  # it looks at a value, which torch.compile would warn of
    def _begin(self, x: Tensor) -> bool:
        """Whether there is a step, now that this minibatch was seen."""
        if not bool(self.started) and not self.training:
            return False
        if not bool(self.started):
            step = self._first_of_all(x.detach())
            if step is None:
                self.ignored += 1
                return False
            # In place: the optimizer holds this parameter.
            self.step.data.copy_(step)
            self.started.fill_(True)
            # The step was just set, between `note_scale` and the optimizer's
            # step: it is what that update is measured by, not 1.
            self.note_scale()
        self._has_step = True
        return True

    def _first_of_all(self, x: Tensor) -> Tensor | None:
        """The mean of the first steps of all processes whose minibatches are finite; None where none is."""
        good = bool(x.numel()) and bool(torch.isfinite(x).all())
        step = (
            first_step(x if self.signed else x.clamp_min(0), self._high).to(self.step)
            if good
            else torch.zeros_like(self.step)
        )
        total, count = sum_over_ranks(torch.stack([step, torch.full_like(step, float(good))])).unbind()
        return total / count if bool(count > 0) else None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._has_step = bool(self.started)


@QUANTIZERS.register
class LSQQuantizer(Quantizer):
    """Weights and activations rounded to multiples of step sizes that are learned with the weights.

    Paper: Esser et al. 2019, Learned Step Size Quantization, arXiv 1902.08153; the first and last layer have 8 bits
    there (`first_last_bits`). What differs: a step per output channel on demand, and BatchNorm folded and frozen late
    as in arXiv 1806.08342, section 3.2.2. One update of the optimizer halves a step at most, or makes it tenfold; a
    step that clips everything, or rounds everything to 0, is led back, for which the paper has no gradient.

    When to use: the best quality of these at 2 to 4 bits; start from a trained network (a later `starting_epoch`).

    Sample:
        quantizers:
          lsq:
            class: LSQQuantizer
            bits_activations: 4
            bits_weights: 4
            first_last_bits: 8

    Args:
        bits_activations: bits of activations, 1 to 8 or 16; 32 leaves them float.
        bits_weights: bits of weights, 2 to 8 or 16; 32 leaves them float.
        bits_bias: bits of biases; null leaves them float.
        quantize_bias: true takes `bits_weights` for biases where `bits_bias` is not given.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`.
        per_channel_wts: a step for each output channel of a weight instead of one.
        quantize_inputs: quantize the network's input too.
        num_bits_inputs: bits of the network's input; null takes `first_last_bits`, else `bits_activations`.
        step_lr: learning rate of the steps, >= 0; null takes the optimizer's own.
        step_weight_decay: weight decay of the steps, >= 0; null takes the optimizer's own.
        fold_batchnorm: quantize weights as they will be once the BatchNorm behind is folded into them.
        freeze_bn_after: epochs after the first quantized one from which on those BatchNorms use their running
            statistics; null leaves them until the policy ends. Only with `fold_batchnorm`.
        first_last_bits: bits of the first and last layer's weights, 32 for float; null treats them as the others.
        example_inputs: what the network is traced with, given by the builder.
    """

    fewest_weight_bits = 2

    def __init__(
        self,
        bits_activations: Bits = 32,
        bits_weights: Bits = 32,
        bits_bias: Bits = None,
        quantize_bias: bool | None = None,
        overrides: Overrides = None,
        per_channel_wts: bool = False,
        quantize_inputs: bool = True,
        num_bits_inputs: Bits = None,
        step_lr: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None,
        step_weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = 0.0,
        fold_batchnorm: bool = False,
        freeze_bn_after: Annotated[int, Field(ge=0)] | None = None,
        first_last_bits: Bits = None,
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_weights, bits_bias, quantize_bias, overrides, first_last_bits, example_inputs
        )
        self.per_channel = per_channel_wts
        self.quantizes_model_input = quantize_inputs
        self.bits_inputs = num_bits_inputs if num_bits_inputs is not None else first_last_bits
        self.group_options = {"lr": step_lr, "weight_decay": step_weight_decay}
        self.take_folding(fold_batchnorm, freeze_bn_after)

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """A learned step."""
        return LearnedStepWeight(bits, axis if self.per_channel else None)

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """A learned step."""
        return LearnedStepActivation(bits, signed)

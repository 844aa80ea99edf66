"""Linear quantization by observed ranges: `QuantAwareTrainRangeLinearQuantizer`.

Weights by their own range, activations by a moving average of theirs (arXiv 1712.05877 and 1806.08342).
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from compress.parameters import HALVES, widened
from compress.quantization.base import Quantizer
from compress.quantization.decision import RESULT_BITS, Bits, Overrides
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, Pieces, WeightQuantizer, constant
from compress.quantization.functions import Bound, ends, fake_quantize, plainly_quantize, rounded, straight_through
from compress.quantization.grid import Grid
from compress.quantization.native.passes import Passes, computes_with, passes_for
from compress.quantization.range_numbers import (
    Mode,
    integers_of,
    plain_scale_and_zero,
    scale_and_zero,
    symmetric_factor,
)
from compress.registry import QUANTIZERS

RESULT_MODE: Literal["ASYMMETRIC_UNSIGNED"] = "ASYMMETRIC_UNSIGNED"  # of what layers give


@with_config(ConfigDict(extra="forbid", strict=True))
class Modes(TypedDict):
    """A mode each for activations and weights."""

    activations: Mode
    weights: Mode


@Pieces.register
class RangeWeight(WeightQuantizer):
    """Rounds to the range of the weight as it is; gradients pass as they are.

    Args:
        bits: 2 to 16.
        mode: of the integers.
        axis: the dimension of output channels, each with a scale of its own; None for one scale.
    """

    def __init__(self, bits: int, mode: Mode = "SYMMETRIC", axis: int | None = None) -> None:
        super().__init__(bits)
        self.mode: Mode = mode
        self.axis = axis
        self.register_buffer("step", constant(1.0))
        self.register_buffer("zero_point", constant(0.0))

    step: Tensor
    zero_point: Tensor

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "mode": self.mode, "axis": self.axis}

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """The range of the weight as it is, one value for each channel that it has now."""
        self.step, self.zero_point = self._range_of(weight)

    def refresh(self, weight: Tensor) -> None:
        """The range of the weight as it is."""
        if not self.frozen:
            self._refresh(weight, self._passes_for(weight))

    def _refresh(self, weight: Tensor, passes: Passes | None) -> None:
        if passes is not None:
            passes.find_steps(weight, self.step, symmetric_factor(self.mode, self.bits))
            return
        with torch.no_grad():
            step, zero_point = self._range_of(weight)
            self.step.copy_(step)
            if not self.mode.startswith("SYMMETRIC"):  # there it is 0, as it was
                self.zero_point.copy_(zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of its shape."""
        passes = self._passes_for(weight)
        if self.training and not self.frozen:
            self._refresh(weight, passes)
        if passes is not None:
            return straight_through(weight, passes.quantize_rows(weight, self.step, *integers_of(self.mode, self.bits)))
        with torch.no_grad():
            bounds: tuple[Bound, Bound] = integers_of(self.mode, self.bits)
            if not self.mode.startswith("SYMMETRIC"):
                zero_point = self._along(self.zero_point, weight)
                bounds = bounds[0] - zero_point, bounds[1] - zero_point
            values = rounded(weight, self._along(self.step, weight), *bounds)
        return straight_through(weight, values)

    def grid(self) -> Grid:
        """Of the range noted last."""
        return Grid(self.step, self.zero_point.to(torch.int64), *integers_of(self.mode, self.bits), axis=self.axis)

    def _range_of(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.axis is None:
            low, high = torch.aminmax(weight.detach())
        else:
            rows = weight.detach().movedim(self.axis, 0).flatten(1)
            low, high = rows.amin(1), rows.amax(1)  # six times faster than `aminmax` along a dimension
        return scale_and_zero(low, high, self.mode, self.bits)

    def _passes_for(self, weight: Tensor) -> Passes | None:
        """The compiled passes, where each channel is one piece of memory and all channels have a step."""
        if self.axis not in (None, 0) or not self.mode.startswith("SYMMETRIC"):
            return None
        fits = self.step.numel() == (1 if self.axis is None else weight.shape[0])
        return passes_for(weight) if fits and computes_with(self.step) else None

    def _along(self, values: Tensor, weight: Tensor) -> Tensor:
        shape = [-1 if i == self.axis else 1 for i in range(weight.dim())]
        return values if self.axis is None else values.reshape(shape)


@Pieces.register
class RangeActivation(ActivationQuantizer):
    """Rounds to a moving average of the minima and maxima of minibatches.

    The average starts without a bias towards zero: it is divided by the sum of its weights, 1 - decay^n. Before the
    first minibatch there is no range, and the activation passes as it is. A minibatch with a value that is NaN or
    infinite is not observed, only counted: a training loop leaves its update out, and what it still has of finite
    values may be as wrong.

    Args:
        bits: 2 to 16.
        signed: whether values below zero are to be kept; if not, the smallest integer stands for 0.
        mode: of the integers; a symmetric one takes [0, 2^bits - 1] where nothing is below zero.
        decay: share of the old average that a minibatch keeps, [0, 1).
        observe_every: once the average is stable, which it is after 1 / (1 - decay) minibatches, only every so manyth
            is observed, and counts for all of them.
    """

    def __init__(
        self, bits: int, signed: bool, mode: Mode = "SYMMETRIC", decay: float = 0.999, observe_every: int = 1
    ) -> None:
        super().__init__(bits, signed)
        self.observe_every = observe_every
        self._is_stable = self._rests = False
        self._stands_for = observe_every
        self._given_mode: Mode = mode
        self.mode: Mode = "ASYMMETRIC_UNSIGNED" if mode.startswith("SYMMETRIC") and not signed else mode
        self.decay = decay
        self.register_buffer("ranges", torch.zeros(3))  # averages of minimum and maximum, the sum of their weights
        self._has_range = False
        self._steps: list[Tensor] | None = None  # ends of the ranges of a sequence's steps so far

    ranges: Tensor
    statistics = ("ranges",)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The average stays in float32, whatever the network becomes: in half precision it would stop moving."""
        before, found = widened(self.ranges), super()._apply(fn, recurse)
        self.ranges = before.to(self.ranges.device) if self.ranges.dtype in HALVES else self.ranges
        return found

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"observe_every": self.observe_every} if self.observe_every != 1 else {}
        return {**super().settings(), "mode": self.mode, "decay": self.decay, **own}

    def become_signed(self) -> None:
        """In the mode that was given; the average starts anew."""
        super().become_signed()
        self.mode, self._has_range, self._is_stable, self._rests = self._given_mode, False, False, False
        self.ranges.zero_()

    def begin_minibatch(self, index: int, count: int = 0) -> None:
        """Decides whether the minibatch is observed, by its number and the average: a resumed run decides alike."""
        if self.observe_every > 1 and not self._is_stable:
            self._is_stable = float(self.ranges[2]) >= 1.0 - 1.0 / math.e
        self._rests = self._is_stable and index % self.observe_every != 0
        # At the end of an epoch it stands for fewer.
        self._stands_for = min(self.observe_every, count - index) if count > index else self.observe_every

    def check_sign(self, x: Tensor) -> None:
        """Notes values below zero where there should be none; `observe` does so too, in one pass over them."""
        left_out = self._rests if self.training else False
        if not left_out and not (self._observes and self._is_plain(x)):
            super().check_sign(x)

    def observe(self, x: Tensor) -> tuple[float, float] | None:
        """Adds a minibatch to the average, if all its values are finite; returns its ends, where they were read."""
        if x.numel() and self._steps is None and self._is_plain(x):
            seen = ends(x)
            self._add_plainly(*seen)
            return seen
        if x.numel():
            self._observe_tensor(x)
        return None

    @torch.no_grad()
    def _observe_tensor(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.detach())
        if self._steps is not None:
            self._steps.append(torch.stack([low, high]))
        else:
            self._add(low, high)

    def begin_sequence(self) -> None:
        """The range of a sequence is that of all its steps: the average of theirs would clip the largest states."""
        self._steps = []

    @torch.no_grad()
    def end_sequence(self) -> None:
        """Adds the sequence to the average."""
        steps, self._steps = self._steps, None
        if steps:
            both = torch.stack(steps)
            self._add(both[:, 0].amin(), both[:, 1].amax())

    def _add_plainly(self, low: float, high: float) -> None:
        """`_add` where reading a value is free: to the bit the same, without thirty operations on single numbers."""
        if not self.signed and -math.inf < low < 0:
            self.negative[1] = True
        if not (math.isfinite(low) and math.isfinite(high)):
            self.ignored += 1
            return
        if not self.signed:
            low, high = 0.0, max(high, 0.0)
        self.ranges.lerp_(torch.tensor([low, high, 1.0], dtype=self.ranges.dtype), self._share)

    def _add(self, low: Tensor, high: Tensor) -> None:
        good = torch.isfinite(low) & torch.isfinite(high)
        if not self.signed:
            low, high = torch.zeros_like(low), high.clamp_min(0)
        new = torch.stack([low, high, torch.ones_like(low)]).to(self.ranges)
        # Without a branch on `good`, which would wait for the GPU: a bad minibatch moves the average by nothing.
        self.ranges.lerp_(torch.where(good, new, self.ranges), self._share)
        self.ignored += ~good

    def scale_and_zero(self) -> tuple[Tensor, Tensor]:
        """Of the average as it is now."""
        low, high = self.ranges[:2] / self.ranges[2].clamp_min(1e-30)
        return scale_and_zero(low, high, self.mode, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation, of its shape."""
        seen = self.observe(x) if self._observes else None
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            # Whether there is a range is left to the tensors: a graph that ended here would be compiled anew for each
            # activation, and again once it has a range.
            return torch.where(self.ranges[2] > 0, self._rounded(x, None), self._as_it_is(x))
        if not self._has_range and not self._look():
            return self._as_it_is(x)
        return self._rounded(x, seen)

    def _as_it_is(self, x: Tensor) -> Tensor:
        return x if self.signed else x.clamp_min(0)

    def _rounded(self, x: Tensor, seen: tuple[float, float] | None) -> Tensor:
        low, high = integers_of(self.mode, self.bits)
        if self._is_plain(x):
            step, shift = plain_scale_and_zero(self.ranges.tolist(), self.mode, self.bits)
            return plainly_quantize(x, step, low - shift, high - shift, seen)
        with torch.no_grad():
            scale, zero = self.scale_and_zero()
        if self.mode.startswith("SYMMETRIC"):
            return fake_quantize(x, scale, low, high)
        # The zero point is 0 then; with plain numbers as bounds the backward pass takes its quick way (`_inside`).
        if not self.signed and low == 0:
            return fake_quantize(x, scale, 0, high)
        if x.is_cpu and not torch.compiler.is_compiling():
            # Reading a value is free on a CPU; on a GPU it would wait for the device, so there the bounds stay tensors.
            shift = int(zero)
            return fake_quantize(x, scale, low - shift, high - shift)
        return fake_quantize(x, scale, low - zero, high - zero)

    @property
    def _observes(self) -> bool:
        return self.training and not self.frozen and not self._rests

    @property
    def _share(self) -> float:
        """Of a minibatch in the average: where one stands for several, as much as they would have together."""
        return 1.0 - (self.decay**self._stands_for if self._is_stable else self.decay)

    def _is_plain(self, x: Tensor) -> bool:
        """Whether values may be read: on a CPU, outside of tracers, which put other tensors in the place of these."""
        plain = type(self.ranges) is Tensor and type(x) in (Tensor, nn.Parameter)
        ours = plain and x.is_cpu and self.ranges.is_cpu and self.ranges.dtype == torch.float32
        return ours and not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined]

    def _look(self) -> bool:
        """Whether a minibatch has been observed."""
        self._has_range = float(self.ranges[2]) > 0.0
        return self._has_range

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._has_range = self._is_stable = self._rests = False

    def grid(self) -> Grid | None:
        """Of the average as it is now; None before the first minibatch."""
        if float(self.ranges[2]) == 0.0:
            return None
        scale, zero = self.scale_and_zero()
        return Grid(scale, zero.to(torch.int64), *integers_of(self.mode, self.bits))


@QUANTIZERS.register
class QuantAwareTrainRangeLinearQuantizer(Quantizer):
    """Weights rounded to their own range, activations to a moving average of theirs: what integer kernels run.

    Paper: Jacob et al. 2017, arXiv 1712.05877, and Krishnamoorthi 2018, arXiv 1806.08342, whose section 3.2.2 is
    `fold_batchnorm` and `freeze_bn_after`. Arguments as in Distiller. What differs: `mode` has its effect; a symmetric
    mode spends all 2^bits integers on activations that are never negative; the input of every layer is quantized where
    it is read unless it was quantized where it was made (functional activations, sums, concatenations).

    When to use: 8 bits for integer kernels on CPU or GPU, when quantizing after training costs too much quality.

    Sample:
        quantizers:
          qat:
            class: QuantAwareTrainRangeLinearQuantizer
            bits_activations: 8
            bits_weights: 8
            per_channel_wts: true

    Args:
        bits_activations: bits of activations, 2 to 8 or 16; 32 leaves them float.
        bits_weights: bits of weights, likewise.
        bits_bias: bits of biases; null leaves them float (int8 kernels add biases of 32 bits).
        quantize_bias: true takes `bits_weights` for biases where `bits_bias` is not given.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`.
        mode: `SYMMETRIC`, `SYMMETRIC_RESTRICTED`, `ASYMMETRIC_SIGNED` or `ASYMMETRIC_UNSIGNED`, or a mapping with
            one each for `activations` and `weights`.
        ema_decay: share of the old average of ranges that a minibatch keeps, [0, 1).
        observe_every: once an activation's range is stable, after 1 / (1 - ema_decay) minibatches, only every so
            manyth minibatch of an epoch is observed and counts for all of them; 1 observes each.
        per_channel_wts: a scale for each output channel of a weight instead of one.
        quantize_inputs: quantize the network's input too.
        num_bits_inputs: bits of the network's input; null takes `bits_activations`.
        fold_batchnorm: quantize weights as they will be once the BatchNorm behind is folded into them.
        freeze_bn_after: epochs after the first quantized one from which on those BatchNorms use their running
            statistics; null leaves them until the policy ends. Only with `fold_batchnorm`.
        first_last_bits: bits of the first and last layer's weights, 32 for float; null treats them as the others.
        round_results: which layers round what they give to 8 bits where nothing else does before it is used (in front
            of a PReLU, an addition, ...), which integer kernels need: `inner`, all but what alone makes the network's
            output; `all`, that too; `none`, and such layers run in float.
        example_inputs: what the network is traced with, given by the builder.
    """

    fewest_weight_bits = 2
    fewest_activation_bits = 2

    def __init__(
        self,
        bits_activations: Bits = 32,
        bits_weights: Bits = 32,
        bits_bias: Bits = None,
        quantize_bias: bool | None = None,
        overrides: Overrides = None,
        mode: Mode | Modes = "SYMMETRIC",
        ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999,
        observe_every: Annotated[int, Field(ge=1, le=1000)] = 1,
        per_channel_wts: bool = False,
        quantize_inputs: bool = True,
        num_bits_inputs: Bits = None,
        fold_batchnorm: bool = False,
        freeze_bn_after: Annotated[int, Field(ge=0)] | None = None,
        first_last_bits: Bits = None,
        round_results: Literal["inner", "all", "none"] = "inner",
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_weights, bits_bias, quantize_bias, overrides, first_last_bits, example_inputs
        )
        self.rounds_results = round_results
        self.modes: Modes = mode if isinstance(mode, dict) else {"activations": mode, "weights": mode}
        self.ema_decay, self.observe_every = ema_decay, observe_every
        self.per_channel = per_channel_wts
        self.quantizes_model_input = quantize_inputs
        self.bits_inputs = num_bits_inputs
        self.take_folding(fold_batchnorm, freeze_bn_after)

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """The weight's own range."""
        return RangeWeight(bits, self.modes["weights"], axis if self.per_channel else None)

    def bias_piece(self, bits: int) -> FakeQuantizer:
        """The bias's own range, one scale."""
        return RangeWeight(bits, self.modes["weights"])

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """A moving average of the range."""
        return RangeActivation(bits, signed, self.modes["activations"], self.ema_decay, self.observe_every)

    def result_piece(self) -> FakeQuantizer:
        """A moving average of the range, wherever zero lies in it."""
        return RangeActivation(RESULT_BITS, True, RESULT_MODE, self.ema_decay, self.observe_every)

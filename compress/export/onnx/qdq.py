"""Quantized networks in the form that is deployed: what the exporter traces instead of the training form.

`deployable`, a copy of a network in which weights are integers or lie on their grids, and in which fake quantizers
have become QuantizeLinear / DequantizeLinear (`qdq`), rounding in torch (`torch`) or plain clips (`clip`). The
network itself stays as it was.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from compress.export.decomposed import DecomposedActivation, store_decomposed
from compress.export.onnx.int8_weights import Int8Weight, int8_form
from compress.parameters import copied
from compress.quantization.fake_quant import ActivationQuantizer
from compress.quantization.grid import Grid
from compress.quantization.modules.layers import QuantLayer, bias_names, slot_of, weight_names
from compress.selectors import canonical

Form = Literal["qdq", "clip", "torch", "program"]
INTEGERS = ("qdq", "program")  # forms that store weights as int8


@dataclass(frozen=True)
class WeightNote:
    """How a quantized weight went into a file.

    Attributes:
        name: of the layer.
        bits: of its quantizer.
        stored: `int8` or `float`.
        error: largest absolute difference to the trained quantized weight; 0 is exact.
        relative_error: the same over the weight's largest absolute value.
        reason: why it is not exact or not int8; empty if it is.
    """

    name: str
    bits: int
    stored: str
    error: float = 0.0
    relative_error: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Choices:
    """How integers are written.

    Attributes:
        reduce_range: see `int8_form`.
        clip_first: see `QuantizeDequantize`.
    """

    reduce_range: bool = False
    clip_first: bool = False


@dataclass
class Deployable:
    """A network ready for an exporter.

    Attributes:
        model: on the CPU, float32, in eval mode.
        weights: one note a quantized layer.
        warnings: what is not as it was trained, each a sentence.
    """

    model: nn.Module
    weights: list[WeightNote] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def is_quantized(model: nn.Module) -> bool:
    """Whether a quantizer has wrapped any of its layers."""
    return any(isinstance(module, (QuantLayer, ActivationQuantizer)) for module in model.modules())


@torch.no_grad()
def deployable(model: nn.Module, form: Form, choices: Choices | None = None) -> Deployable:
    """A copy of a network in the form that is deployed; a float network is only copied.

    Args:
        model: any network.
        form: `qdq` for ONNX with integers, `clip` for float files, `torch` for rounding in torch's own operations,
            `program` for integers in torch's own operations (decomposed.py).
        choices: of `qdq`.
    """
    choices = choices or Choices()
    result = Deployable(copied(model).cpu().float().eval())
    layers = {name: each for name, each in result.model.named_modules() if isinstance(each, QuantLayer)}
    for name, layer in layers.items():  # before the activations: a weight may need its BatchNorm, nothing else
        _set_weight(canonical(name, result.model), layer, form, choices, result)
    activations = [name for name, each in result.model.named_modules() if isinstance(each, ActivationQuantizer)]
    for name in activations:
        _replace(result.model, name, form, choices, result)
    return result


def _set_weight(name: str, layer: QuantLayer, form: Form, choices: Choices, result: Deployable) -> None:
    """The layer computes with fixed values from now on; the quantizers of weights and biases are gone."""
    for own in bias_names(layer):
        bias = layer.quantized_bias(own)
        setattr(layer, slot_of(own), None)
        if bias is not None:
            setattr(layer, own, nn.Parameter(bias.detach().clone(), requires_grad=False))
    names = [own for own in weight_names(layer) if getattr(layer, slot_of(own)) is not None]
    for own in names:
        label = name if len(weight_names(layer)) == 1 else f"{name}.{own}"
        _set_one(label, layer, own, form, choices, result)


def _set_one(name: str, layer: QuantLayer, own: str, form: Form, choices: Choices, result: Deployable) -> None:
    """One weight of a layer; `name` is for messages."""
    quantizer: Any = getattr(layer, slot_of(own))
    values = layer.quantized_weight(own).detach().clone()
    bits, grid, scale = quantizer.bits, quantizer.grid(), layer.fold_scale()
    setattr(layer, slot_of(own), None)
    # The values are Q(w s) / s already; they would be scaled once more.
    layer._normed_by = ()
    setattr(layer, own, nn.Parameter(values, requires_grad=False))
    if form not in INTEGERS or bits > 8:
        reason = f"{bits} bits do not fit int8" if form in INTEGERS else ""
        _note(WeightNote(name, bits, "float", reason=reason), result)
        return
    # The grid is that of w s; the layer's values are it over s.
    # The inner `where` keeps 1 / 0 from being computed at all.
    stretch = None if scale is None else torch.where(scale == 0, 1.0, 1 / torch.where(scale == 0, 1.0, scale))
    weight = int8_form(values, grid, layer.channel_axis, stretch, choices.reduce_range)
    reason = "" if weight.exact else _reason(bits, choices.reduce_range and grid is not None)
    _note(WeightNote(name, bits, "int8", weight.error, weight.relative_error, reason), result)
    if form == "qdq":
        _store(layer, own, weight)
        return
    store_decomposed(layer, own, weight)


def _reason(bits: int, reduced: bool) -> str:
    if reduced:
        return "reduce_range leaves 7 bits"
    return f"its {bits}-bit values are not multiples of one step within [-128, 127], so they have no int8 form"


def _note(note: WeightNote, result: Deployable) -> None:
    result.weights.append(note)
    if note.reason and note.stored == "int8":
        result.warnings.append(
            f"{note.name}: {note.reason}; the nearest is stored, off by at most {note.error:.3g} "
            f"({100 * note.relative_error:.2g} % of the largest weight)"
        )
    elif note.reason:
        result.warnings.append(f"{note.name}: {note.reason}; the weight is stored as float, on its grid")


def _store(layer: QuantLayer, name: str, weight: Int8Weight) -> None:
    """A weight of the layer becomes a DequantizeLinear of int8."""
    layer._parameters[name] = None
    layer.register_buffer(f"{name}_int8", weight.integers)
    layer.register_buffer(f"{name}_scale", weight.scale)
    layer.register_buffer(f"{name}_zero_point", weight.zero_point)
    own: Any = layer
    others = own.quantized_weight
    attributes: dict[str, Any] = {} if weight.axis is None or weight.scale.dim() == 0 else {"axis": weight.axis}

    def dequantized(which: str = "weight") -> Tensor:
        if which != name:
            return others(which)
        inputs = tuple(getattr(own, f"{name}_{part}") for part in ("int8", "scale", "zero_point"))
        shape = inputs[0].shape
        return symbolic("DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=shape)

    own.quantized_weight = dequantized  # this instance is our copy; its class stays as it is


class Clip(nn.Module):
    """A quantized activation as a plain clip.

    Args:
        low: smallest value.
        high: largest value.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        # No range yet: an infinite bound would be exported as a Clip to infinity.
        if math.isinf(self.high):
            return x if math.isinf(self.low) else x.clamp_min(self.low)
        return torch.clamp(x, self.low, self.high)


class QuantizeDequantize(nn.Module):
    """A quantized activation as QuantizeLinear / DequantizeLinear over uint8; only for tracing, it computes nothing.

    A grid narrower than uint8 needs a Clip. Clipping the integers, behind QuantizeLinear, gives the same numbers as
    clipping the values in front of it, and only so does onnxruntime see Conv and QuantizeLinear side by side, which it
    fuses; other compilers look for the Clip in front.

    Args:
        scale: of the grid.
        zero_point: of the integers as stored, [0, 255].
        highest: the largest integer as stored, <= 255; the smallest is 0.
        clip_first: clip values, not integers.
    """

    scale: Tensor
    zero_point: Tensor
    least: Tensor
    highest: Tensor

    def __init__(self, scale: float, zero_point: int, highest: int, clip_first: bool) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.uint8))
        self.register_buffer("least", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("highest", torch.tensor(highest, dtype=torch.uint8))
        self.narrow, self.clip_first = highest < 255, clip_first
        self.clip = Clip(-zero_point * scale, (highest - zero_point) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        x = self.clip(x) if self.narrow and self.clip_first else x
        pair = (self.scale, self.zero_point)
        integers = symbolic("QuantizeLinear", (x, *pair), dtype=torch.uint8, shape=x.shape)
        if self.narrow and not self.clip_first:
            bounds = (self.least, self.highest)
            integers = symbolic("Clip", (integers, *bounds), dtype=torch.uint8, shape=x.shape)
        return symbolic("DequantizeLinear", (integers, *pair), dtype=torch.float32, shape=x.shape)


class Rounded(nn.Module):
    """A quantized activation in torch's own operations.

    Args:
        scale: of the grid.
        zero_point: its integer of 0.0.
        low: its smallest integer.
        high: its largest integer.
    """

    def __init__(self, scale: float, zero_point: int, low: int, high: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.low, self.high = scale, zero_point, low, high

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        integers = (torch.round(x / self.scale) + self.zero_point).clamp(self.low, self.high)
        return (integers - self.zero_point) * self.scale


def _replace(model: nn.Module, name: str, form: Form, choices: Choices, result: Deployable) -> None:
    parent, _, own = name.rpartition(".")
    quantizer: Any = model.get_submodule(name)
    grid, label = quantizer.grid(), canonical(name, model)
    if grid is not None and grid.axis is not None:
        result.warnings.append(f"{label}: activations have one scale here, its {grid.scale.numel()} become a clip")
        grid = None
    model.get_submodule(parent).register_module(own, _deployed(label, quantizer, grid, form, choices, result))


def _deployed(
    name: str, quantizer: ActivationQuantizer, grid: Grid | None, form: Form, choices: Choices, result: Deployable
) -> nn.Module:
    clip = Clip(*quantizer.clip_range())
    if form == "clip":
        return clip
    if grid is None:
        result.warnings.append(f"{name}: it has no range or no affine grid yet, so nothing is rounded there")
        return clip
    scale, zero = float(grid.scale), int(grid.zero_point)
    if form == "torch":
        return Rounded(scale, zero, grid.low, grid.high)
    if grid.high - grid.low > 255:
        result.warnings.append(f"{name}: {quantizer.bits} bits do not fit uint8; it is clipped and not rounded")
        return clip
    if not grid.low <= zero <= grid.high:
        result.warnings.append(f"{name}: its range leaves out 0, which uint8 needs; it is clipped and not rounded")
        return clip
    if form == "program":
        return DecomposedActivation(scale, zero - grid.low, grid.high - grid.low)
    return QuantizeDequantize(scale, zero - grid.low, grid.high - grid.low, choices.clip_first)

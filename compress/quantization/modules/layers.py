"""Layers that quantize, and their exchange for the float ones.

One subclass of each layer type; an instance takes over the float layer's parameters, buffers, hooks and names, so
that masks, optimizers, schedules and recipes keep working. The float layer itself, its class and every other network
stay as they were.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, WeightQuantizer
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.norms import NORMS, LateFrozen
from compress.quantization.modules.own_forward import own_form
from compress.quantization.modules.recurrent import QuantRecurrentCell, QuantRecurrentLayer, hidden_slots, is_recurrent


class QuantLayer(nn.Module):
    """What quantized layers have in common.

    The fake quantizer of the parameter `weight` is called `weight_quantizer`; a layer with several weights has one for
    each, under such names.

    Attributes:
        weight_quantizer: of the weight; None leaves it float.
        bias_quantizer: of the bias.
        input_quantizer: of the layer's input; for inputs that nothing has quantized where they were made.
        result_quantizer: of what the layer gives, where nothing behind rounds it before it is used: without it an
            integer kernel could not give integers.
        channel_axis: the weight's dimension of output channels.
    """

    weight: Tensor
    weight_quantizer: WeightQuantizer | None
    bias_quantizer: WeightQuantizer | None
    input_quantizer: ActivationQuantizer | None
    result_quantizer: ActivationQuantizer | None
    channel_axis: ClassVar[int] = 0
    _normed_by: tuple[nn.Module, ...]

    @property
    def batch_norm(self) -> nn.Module | None:
        """The BatchNorm whose scale the weight is quantized with, because it will be folded into it; or None."""
        return self._normed_by[0] if self._normed_by else None

    @torch.compiler.disable
    def fold_scale(self, starting: bool = False) -> Tensor | None:
        """gamma / sqrt(running variance + eps) of `batch_norm`, in a shape that multiplies the weight.

        Outside of compiled graphs: their backward pass would read the running variance after its update.

        Args:
            starting: a scale next to 0 counts as the mean of the others, so that what begins at the weight's values
                begins at some.
        """
        norm: Any = self.batch_norm
        if norm is None:
            return None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        if starting:
            sizes = scale.abs()
            small = sizes <= 1e-3 * sizes.max()
            rest = torch.rsqrt(norm.running_var + norm.eps) if bool(small.all()) else sizes[~small]
            scale = torch.where(small, rest.mean(), scale)
        shape = [1] * self.weight.dim()
        shape[self.channel_axis] = -1
        return scale.reshape(shape)

    def quantized_weight(self, name: str = "weight") -> Tensor:
        """The weight that the layer computes with. With a `batch_norm` it is Q(w s) / s, s being the fold's scale.

        arXiv 1806.08342, section 3.2.2: the weight is quantized as it will be once the BatchNorm is folded into it,
        with its running statistics; the BatchNorm behind then normalises as ever.

        Args:
            name: of the parameter, where there are several weights.
        """
        quantizer, weight = getattr(self, slot_of(name)), getattr(self, name)
        if quantizer is None:
            return weight
        # Without a BatchNorm it is not called: a compiled graph would end there.
        scale = self.fold_scale() if self._normed_by else None
        if scale is None:
            return quantizer(weight)
        assert self.weight_quantizer is not None, "layers with several weights are not folded"
        # `scale` carries no gradient (gamma is detached, the variance
        # a buffer): the weight's gradient is s * (1 / s) = 1.
        quantized = self.weight_quantizer(self.weight * scale)
        values = quantized / torch.where(scale == 0, 1.0, scale)
        return torch.where(self._lost(quantized, scale), self.weight if self.training else 0.0, values)

    def _lost(self, quantized: Tensor, scale: Tensor) -> Tensor:
        """The channels of which the fold leaves nothing; in training they compute with their float weight.

        Else the BatchNorm would see nothing but zeros, and its gamma had no gradient for ever. A gamma of 0 hides what
        they compute. One that is only so small that all of the channel rounds to 0 does nearly so, and only while the
        BatchNorm normalises by minibatches; with running statistics training and evaluation are the same.
        """
        norm: Any = self.batch_norm
        if not (self.training and norm.training):
            return scale == 0
        dims = [i for i in range(quantized.dim()) if i != self.channel_axis]
        return quantized.detach().abs().amax(dims, keepdim=True) == 0

    def quantized_bias(self, name: str = "bias") -> Tensor | None:
        """The bias that the layer computes with."""
        bias, quantizer = getattr(self, name), getattr(self, slot_of(name))
        return bias if bias is None or quantizer is None else quantizer(bias)

    def quantized_input(self, input: Tensor) -> Tensor:
        """The input that the layer computes with."""
        if self.input_quantizer is None:
            return input
        if isinstance(self.input_quantizer, ActivationQuantizer):  # an exporter puts its own operations there
            self.input_quantizer.check_sign(input)
        rounded: Tensor = self.input_quantizer(input)
        return rounded

    def rounded_result(self, result: Tensor) -> Tensor:
        """What the layer gives, rounded where it has a `result_quantizer`."""
        if self.result_quantizer is None:
            return result
        rounded: Tensor = self.result_quantizer(result)
        return rounded


class _QuantConv(QuantLayer):
    _conv_forward: Any

    def forward(self, input: Tensor) -> Tensor:
        result = self._conv_forward(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())
        return self.rounded_result(result)


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` with quantized weight, bias and input."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` with quantized weight, bias and input."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` with quantized weight, bias and input."""


class _QuantConvTranspose(QuantLayer):
    channel_axis = 1
    operation: ClassVar[Any]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        own: Any = self
        # As nn.ConvTranspose's own forward, whose operation cannot be handed another weight.
        padding = own._output_padding(
            input, output_size, own.stride, own.padding, own.kernel_size, input.dim() - 2, own.dilation
        )
        return self.rounded_result(type(self).operation(
            self.quantized_input(input), self.quantized_weight(), self.quantized_bias(),
            own.stride, own.padding, padding, own.groups, own.dilation,
        ))  # fmt: skip


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with quantized weight, bias and input."""

    operation = staticmethod(functional.conv_transpose1d)


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with quantized weight, bias and input."""

    operation = staticmethod(functional.conv_transpose2d)


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with quantized weight, bias and input."""

    operation = staticmethod(functional.conv_transpose3d)


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` with quantized weight, bias and input."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        result = functional.linear(self.quantized_input(input), self.quantized_weight(), self.quantized_bias())
        return self.rounded_result(result)


class QuantEmbedding(QuantLayer, nn.Embedding):
    """`nn.Embedding` with a quantized weight; per channel means per row."""

    bias: None = None

    def forward(self, input: Tensor) -> Tensor:
        """Indices (...) -> (..., embedding_dim)."""
        return functional.embedding(
            input, self.quantized_weight(), self.padding_idx, None, 2.0, self.scale_grad_by_freq, self.sparse
        )


class QuantLSTM(QuantRecurrentLayer, QuantLayer, nn.LSTM):
    """`nn.LSTM` with quantized weights, biases, input and hidden states."""


class QuantGRU(QuantRecurrentLayer, QuantLayer, nn.GRU):
    """`nn.GRU` with quantized weights, biases, input and hidden states."""


class QuantRNN(QuantRecurrentLayer, QuantLayer, nn.RNN):
    """`nn.RNN` with quantized weights, biases, input and hidden states."""


class QuantLSTMCell(QuantRecurrentCell, QuantLayer, nn.LSTMCell):
    """`nn.LSTMCell` with quantized weights, biases, input and hidden state."""

    mode = "LSTM"


class QuantGRUCell(QuantRecurrentCell, QuantLayer, nn.GRUCell):
    """`nn.GRUCell` with quantized weights, biases, input and hidden state."""

    mode = "GRU"


class QuantRNNCell(QuantRecurrentCell, QuantLayer, nn.RNNCell):
    """`nn.RNNCell` with quantized weights, biases, input and hidden state."""

    mode = "RNN_TANH"


INPUT, OUTPUT, RESULT = "input_quantizer", "output_quantizer", "result_quantizer"
LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Linear: QuantLinear,
    nn.Embedding: QuantEmbedding,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
    nn.RNN: QuantRNN,
    nn.LSTMCell: QuantLSTMCell,
    nn.GRUCell: QuantGRUCell,
    nn.RNNCell: QuantRNNCell,
}
UNFIT_TO_DERIVE = (nn.Embedding, nn.RNNBase, nn.RNNCellBase)  # their quantized forms compute all of it anew


def quantized_class(module: nn.Module) -> type[QuantLayer] | None:
    """The quantized class of a float layer, also of one whose class derives from torch's; None for other modules.

    Whether a derived layer may be quantized so is for the trace to say (placement/plain_forward.py).
    """
    cls = type(module)
    if cls in LAYERS or isinstance(module, (*UNFIT_TO_DERIVE, QuantLayer)) or module._parameters.get("weight") is None:
        return LAYERS.get(cls)
    base = next((LAYERS[each] for each in cls.__mro__ if each in LAYERS), None)
    return None if base is None else own_form(cls, base)


def channel_axis(layer: nn.Module) -> int:
    """The weight's dimension of output channels, of a float layer that has a quantized class."""
    found = quantized_class(layer)
    assert found is not None, f"{type(layer).__name__} has no quantized class"
    return found.channel_axis


def slot_of(name: str) -> str:
    """The slot of a parameter's fake quantizer."""
    return f"{name}_quantizer"


def weight_names(layer: nn.Module) -> tuple[str, ...]:
    """The parameters of a layer, float or quantized, that are its weights."""
    return _own(layer, "weight") if is_recurrent(layer) else ("weight",)


def bias_names(layer: nn.Module) -> tuple[str, ...]:
    """The parameters of a layer that are its biases; one that it has not may be among them."""
    return _own(layer, "bias") if is_recurrent(layer) else ("bias",)


def _own(layer: nn.Module, prefix: str) -> tuple[str, ...]:
    names: Any = getattr(layer, "_flat_weights_names", layer._parameters)
    return tuple(name for name in names if name.startswith(f"{prefix}_"))


def kind_of(slot: str) -> str:
    """What a slot's fake quantizer rounds: `weight`, `bias` or `activation`."""
    kind = slot.removesuffix("_quantizer").split("_")[0]
    return kind if kind in ("weight", "bias") else "activation"


def slots_of(module: nn.Module) -> tuple[str, ...]:
    """The slots of a layer, a BatchNorm or an activation, float or quantized, in their order."""
    if isinstance(module, LateFrozen) or type(module) in NORMS:
        return (RESULT,)
    if not isinstance(module, QuantLayer) and quantized_class(module) is None:
        return (OUTPUT,)
    own = [slot_of(name) for name in (*weight_names(module), *bias_names(module))]
    return (*own, INPUT, *hidden_slots(module), RESULT)


def quantized(module: nn.Module, pieces: dict[str, FakeQuantizer], norm: nn.Module | None = None) -> nn.Module:
    """The quantized twin of a float layer: the same parameters, buffers, hooks and flags under the same names.

    Args:
        module: one with a quantized class, or of a type in `ACTIVATIONS`; it is left as it was.
        pieces: slot (`slots_of`) -> fake quantizer.
        norm: the BatchNorm that follows, if the weight is to be quantized as folded with it.
    """
    twin = _twin(module, quantized_class(module) or ACTIVATIONS[type(module)])
    if isinstance(twin, QuantLayer):
        # In a tuple: a module as an attribute would be registered as a child, and its tensors saved twice.
        twin._normed_by = () if norm is None else (norm,)
    return _given(twin, pieces)


def normed(module: nn.Module, pieces: Mapping[str, FakeQuantizer] | None = None) -> nn.Module:
    """The twin of a BatchNorm that may be held, and rounds what it gives if it has a fake quantizer for that."""
    twin = _twin(module, NORMS[type(module)])
    twin.held = False
    return _given(twin, pieces or {})


def _given(twin: nn.Module, pieces: Mapping[str, FakeQuantizer]) -> nn.Module:
    """With its fake quantizers, in its mode: in training mode they would go on to move the ranges of a calibration."""
    for slot in slots_of(twin):
        twin.add_module(slot, pieces.get(slot))
    for piece in pieces.values():
        piece.train(twin.training)
    return twin


def _twin(module: nn.Module, cls: type[Any]) -> Any:
    """A module of another class with the same parameters, buffers, children, hooks and flags."""
    # Without __init__, which would allocate new tensors and draw from the global generator. The dictionaries of hooks
    # are shared, so that the handles that callers hold still remove them; parameters and children are copied as
    # dictionaries, or quantizers added to the twin would appear in the float layer.
    twin: Any = object.__new__(cls)
    twin.__dict__.update(module.__dict__)
    for own in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        twin.__dict__[own] = module.__dict__[own].copy()
    return twin

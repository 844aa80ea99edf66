"""Activation functions whose output is rounded."""

from torch import Tensor, nn

from compress.quantization.fake_quant import ActivationQuantizer


class QuantActivation(nn.Module):
    """What quantized activations have in common: the output is rounded.

    Attributes:
        output_quantizer: of the output.
    """

    output_quantizer: ActivationQuantizer

    def forward(self, input: Tensor) -> Tensor:
        """The float activation's output, rounded."""
        return self.output_quantizer(super().forward(input))


class QuantReLU(QuantActivation, nn.ReLU):
    """`nn.ReLU`, rounded. The quantizer's clip at 0 is the ReLU, so that two passes over memory are saved."""

    def forward(self, input: Tensor) -> Tensor:
        """relu(input), rounded."""
        return self.output_quantizer(input)


class QuantReLU6(QuantActivation, nn.ReLU6):
    """`nn.ReLU6`, rounded."""


class QuantPReLU(QuantActivation, nn.PReLU):
    """`nn.PReLU`, rounded; its slope stays float."""


class QuantLeakyReLU(QuantActivation, nn.LeakyReLU):
    """`nn.LeakyReLU`, rounded."""


class QuantGELU(QuantActivation, nn.GELU):
    """`nn.GELU`, rounded."""


class QuantSiLU(QuantActivation, nn.SiLU):
    """`nn.SiLU`, rounded."""


class QuantHardswish(QuantActivation, nn.Hardswish):
    """`nn.Hardswish`, rounded."""


class QuantMish(QuantActivation, nn.Mish):
    """`nn.Mish`, rounded."""


class QuantELU(QuantActivation, nn.ELU):
    """`nn.ELU`, rounded."""


class QuantTanh(QuantActivation, nn.Tanh):
    """`nn.Tanh`, rounded."""


class QuantHardtanh(QuantActivation, nn.Hardtanh):
    """`nn.Hardtanh`, rounded."""


class QuantSigmoid(QuantActivation, nn.Sigmoid):
    """`nn.Sigmoid`, rounded."""


class QuantHardsigmoid(QuantActivation, nn.Hardsigmoid):
    """`nn.Hardsigmoid`, rounded."""


ACTIVATIONS: dict[type[nn.Module], type[QuantActivation]] = {
    nn.ReLU: QuantReLU,
    nn.ReLU6: QuantReLU6,
    nn.PReLU: QuantPReLU,
    nn.LeakyReLU: QuantLeakyReLU,
    nn.GELU: QuantGELU,
    nn.SiLU: QuantSiLU,
    nn.Hardswish: QuantHardswish,
    nn.Mish: QuantMish,
    nn.ELU: QuantELU,
    nn.Tanh: QuantTanh,
    nn.Hardtanh: QuantHardtanh,
    nn.Sigmoid: QuantSigmoid,
    nn.Hardsigmoid: QuantHardsigmoid,
}
UNSIGNED = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid)  # activations that are never negative

"""BatchNorms that are folded into the layer in front of them once training is over."""

from typing import Any

from torch import Tensor, nn

from compress.quantization.fake_quant import ActivationQuantizer


class LateFrozen(nn.Module):
    """A BatchNorm that is folded into the layer in front of it once training is over.

    Attributes:
        held: whether it uses its running statistics in training too (arXiv 1806.08342, section 3.2.2).
        result_quantizer: of what it gives, for the layer that it will be folded into; see `QuantLayer`.
    """

    held: bool
    result_quantizer: ActivationQuantizer | None

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input, rounded where it has a `result_quantizer`."""
        result: Tensor = super().forward(input)
        return result if self.result_quantizer is None else self.result_quantizer(result)

    def train(self, mode: bool = True) -> Any:
        """As every module's, but a held one stays in evaluation mode."""
        # model.train() at the start of an epoch reaches every module: without this it would wake a held BatchNorm up.
        return super().train(mode and not self.held)

    def hold(self) -> None:
        """Running statistics from now on."""
        self.held = True
        self.eval()


class LateFrozenBatchNorm1d(LateFrozen, nn.BatchNorm1d):
    """`nn.BatchNorm1d` that may be held."""


class LateFrozenBatchNorm2d(LateFrozen, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that may be held."""


class LateFrozenBatchNorm3d(LateFrozen, nn.BatchNorm3d):
    """`nn.BatchNorm3d` that may be held."""


NORMS: dict[type[nn.Module], type[LateFrozen]] = {
    nn.BatchNorm1d: LateFrozenBatchNorm1d,
    nn.BatchNorm2d: LateFrozenBatchNorm2d,
    nn.BatchNorm3d: LateFrozenBatchNorm3d,
}

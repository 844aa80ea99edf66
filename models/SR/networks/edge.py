"""ECBSR, which trains with edge-oriented blocks, and the plain network that it becomes: `ECBSR`, `PlainSR`."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from models.blocks import EdgeBlock


class PlainSR(nn.Module):
    """3x3 convolutions with PReLU and a PixelShuffle: (N, colors, h, w) -> (N, colors, h * scale, w * scale).

    Paper: Zhang et al. 2021, Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM
    Multimedia, figure 2: what an ECBSR becomes once its blocks are fused. The input, each pixel repeated, is added to
    what the last convolution gives. Images here have three colors; the paper's networks see luminance alone.

    Args:
        upscale_factor: scale, >= 1.
        width: channels of the convolutions; the paper has 8, 16, 32 and 64.
        depth: convolutions between the first and the last one; the paper has 4, 10 and 16.
        relu: ReLU in place of PReLU, in front of which runtimes compute an int8 layer in float.
        colors: channels of input and output.

    Attributes:
        arguments: the constructor's arguments; `type(self)(**arguments)` has the same structure.
    """

    block: Callable[[int, int], nn.Module] = staticmethod(
        lambda inputs, outputs: nn.Conv2d(inputs, outputs, 3, padding=1)
    )

    def __init__(
        self, upscale_factor: int = 2, width: int = 16, depth: int = 4, relu: bool = False, colors: int = 3
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "upscale_factor": upscale_factor, "width": width, "depth": depth, "relu": relu, "colors": colors,
        }  # fmt: skip
        self.upscale_factor = upscale_factor
        self.body = nn.Sequential(*self._layers(width, depth, relu, colors))

    def forward(self, low: Tensor) -> Tensor:
        detail = functional.pixel_shuffle(self.body(low), self.upscale_factor)
        return detail + functional.interpolate(low, scale_factor=self.upscale_factor, mode="nearest")

    def _layers(self, width: int, depth: int, relu: bool, colors: int) -> Iterator[nn.Module]:
        for number in range(depth + 1):
            yield self.block(width if number else colors, width)
            yield nn.ReLU() if relu else nn.PReLU(width)
        yield self.block(width, colors * self.upscale_factor**2)


class ECBSR(PlainSR):
    """The same network with an edge-oriented block (`EdgeBlock`) in place of each convolution.

    With the extension `Reparameterize` it becomes a `PlainSR` with the same names, `body.0.weight` and so on.
    """

    block = EdgeBlock

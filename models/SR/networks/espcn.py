"""ESPCN: all convolutions at the low resolution, then a pixel shuffle.

Source: Shi et al. 2016, Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
Neural Network, arXiv 1609.05158.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.SR.networks.upscaling import SRNetwork, conv


class ESPCN(SRNetwork):
    """5-3-3 with 64 and 32 channels, as in the paper's section 3.2, with its tanh.

    Args:
        upscale_factor: >= 1.
        width: channels of the first layer; the second has half as many.
        bicubic: whether the output is added to bicubic's; the paper's network learns the whole image.
        colors: channels of the image; 1 in the paper.
    """

    def __init__(self, upscale_factor: int = 2, width: int = 64, bicubic: bool = False, colors: int = 3) -> None:
        super().__init__(upscale_factor, bicubic)
        half = max(width // 2, 1)
        self.first, self.act1 = conv(colors, width, 5), nn.Tanh()
        self.second, self.act2 = conv(width, half), nn.Tanh()
        self.last = conv(half, colors * upscale_factor**2)
        self.quiet(self.last)

    def detail(self, low: Tensor) -> Tensor:
        """See `SRNetwork`."""
        inside = self.act2(self.second(self.act1(self.first(low))))
        return functional.pixel_shuffle(self.last(inside), self.upscale_factor)

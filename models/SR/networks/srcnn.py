"""SRCNN: bicubic up-sampling, then three convolutions at the high resolution.

Source: Dong et al. 2014, Image Super-Resolution Using Deep Convolutional Networks, arXiv 1501.00092. Without padding in
the paper; here with, so that the output has the size of the target.
"""

from torch import Tensor, nn

from models.SR.networks.upscaling import Bicubic, SRNetwork, conv


class SRCNN(SRNetwork):
    """9-1-5 with 64 and 32 channels, as in the paper's section 4.1.

    Args:
        upscale_factor: >= 1.
        width: channels of the first layer; the second has half as many.
        middle: side of the second layer's kernel: 1 (9-1-5), 3 or 5.
        bicubic: whether the output is added to bicubic's; the paper's network learns the whole image.
        colors: channels of the image; 1 in the paper.
    """

    def __init__(
        self, upscale_factor: int = 2, width: int = 64, middle: int = 1, bicubic: bool = False, colors: int = 3
    ) -> None:
        super().__init__(upscale_factor, bicubic)
        half = max(width // 2, 1)
        self.upsample = Bicubic(upscale_factor)
        self.patches, self.relu1 = conv(colors, width, 9), nn.ReLU()
        self.mapping, self.relu2 = conv(width, half, middle), nn.ReLU()
        self.reconstruction = conv(half, colors, 5)
        self.quiet(self.reconstruction)

    def detail(self, low: Tensor) -> Tensor:
        """See `SRNetwork`."""
        inside = self.relu2(self.mapping(self.relu1(self.patches(self.upsample(low)))))
        detail: Tensor = self.reconstruction(inside)
        return detail

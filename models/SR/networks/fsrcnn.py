"""FSRCNN: shrink, map, expand at the low resolution, then one transposed convolution.

Source: Dong et al. 2016, Accelerating the Super-Resolution Convolutional Neural Network, arXiv 1608.00367.
"""

from torch import Tensor, nn

from models.SR.networks.upscaling import SRNetwork, conv


class FSRCNN(SRNetwork):
    """FSRCNN(d, s, m) of the paper's section 3.2, (56, 12, 4) by default; `width: 32, shrunk: 5, depth: 1` is FSRCNN-s.

    Args:
        upscale_factor: >= 1.
        width: d, channels outside.
        shrunk: s, channels inside.
        depth: m, layers inside.
        bicubic: whether the output is added to bicubic's; the paper's network learns the whole image.
        colors: channels of the image; 1 in the paper.
    """

    def __init__(
        self, upscale_factor: int = 2, width: int = 56, shrunk: int = 12, depth: int = 4, bicubic: bool = False,
        colors: int = 3,
    ) -> None:  # fmt: skip
        super().__init__(upscale_factor, bicubic)
        self.features = nn.Sequential(conv(colors, width, 5), nn.PReLU(width))
        layers: list[nn.Module] = [conv(width, shrunk, 1), nn.PReLU(shrunk)]
        for _ in range(depth):
            layers += [conv(shrunk, shrunk), nn.PReLU(shrunk)]
        self.mapping = nn.Sequential(*layers, conv(shrunk, width, 1), nn.PReLU(width))
        self.enlarge = nn.ConvTranspose2d(
            width, colors, 9, upscale_factor, padding=4, output_padding=upscale_factor - 1
        )
        nn.init.normal_(self.enlarge.weight, 0.0, 0.001)  # section 4.1
        nn.init.zeros_(self.enlarge.get_parameter("bias"))

    def detail(self, low: Tensor) -> Tensor:
        """See `SRNetwork`."""
        detail: Tensor = self.enlarge(self.mapping(self.features(low)))
        return detail

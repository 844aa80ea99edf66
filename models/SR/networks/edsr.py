"""EDSR: residual blocks without BatchNorm, and a pixel shuffle with a convolution behind it.

Source: Lim et al. 2017, Enhanced Deep Residual Networks for Single Image Super-Resolution, arXiv 1707.02921. Layers
have the names of the authors' code, so that their files load by name (with `pixel_range: 255`).
"""

from torch import Tensor, nn

from models.SR.networks.upscaling import SRNetwork, chain, conv

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # of its training images


class EDSR(SRNetwork):
    """The paper's baseline by default (table 1): 16 blocks of 64 channels; `width: 256, depth: 32` is EDSR.

    Args:
        upscale_factor: 2, 3 or 4.
        width: channels of every layer.
        depth: residual blocks.
        residual_scale: factor of each block's branch; 0.1 in the paper's largest network.
        pixel_range: what a white pixel is inside; 255 for the authors' weights.
        bicubic: whether the output is added to bicubic's; the paper's network learns the whole image.
    """

    mean: Tensor

    def __init__(
        self, upscale_factor: int = 2, width: int = 64, depth: int = 16, residual_scale: float = 1.0,
        pixel_range: float = 1.0, bicubic: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(upscale_factor, bicubic)
        self.pixel_range = pixel_range
        self.head = nn.Sequential(conv(3, width))
        self.body = nn.Sequential(*chain(depth, lambda: Block(width, residual_scale)), conv(width, width))
        self.tail = nn.Sequential(_upsampler(upscale_factor, width), conv(width, 3))
        last = self.tail[1]
        assert isinstance(last, nn.Conv2d)
        self.quiet(last)
        mean = Tensor(DIV2K_MEAN).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

    def detail(self, low: Tensor) -> Tensor:
        """See `SRNetwork`."""
        first = self.head((low - self.mean) * self.pixel_range)
        detail: Tensor = self.tail(self.body(first) + first) / self.pixel_range
        return detail if self.bicubic is not None else detail + self.mean


class Block(nn.Module):
    """x + scale * conv(relu(conv(x))), figure 2c."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.body(x)
        return x + (branch if self.scale == 1 else branch * self.scale)


def _upsampler(scale: int, width: int) -> nn.Sequential:
    """By 2 or 3 at once, by 4 in two steps."""
    steps = [2] * (scale.bit_length() - 1) if scale & (scale - 1) == 0 else [scale]
    layers = [[conv(width, width * step**2), nn.PixelShuffle(step)] for step in steps]
    return nn.Sequential(*(layer for pair in layers for layer in pair))

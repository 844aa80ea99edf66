"""IMDN: blocks that keep a part of their channels at each step, with contrast-aware channel attention.

Source: Hui et al. 2019, Lightweight Image Super-Resolution with Information Multi-distillation Network, arXiv
1909.11856, figures 1 to 3.
"""

import torch
from torch import Tensor, nn

from models.SR.networks.upscaling import SRNetwork, conv

SLOPE = 0.05  # of the leaky ReLU
REDUCTION = 16  # of the attention's channels
FLAT = 1e-12  # added to the variance: of a channel that is constant, as 8 bits make them, it is 0


class IMDN(SRNetwork):
    """Six blocks of 64 channels by default, as in the paper.

    Args:
        upscale_factor: >= 1.
        width: channels of every layer, a multiple of 4.
        depth: blocks.
        bicubic: whether the output is added to bicubic's; the paper's network learns the whole image.

    Raises:
        ValueError: a width that cannot be divided into quarters.
    """

    def __init__(self, upscale_factor: int = 2, width: int = 64, depth: int = 6, bicubic: bool = False) -> None:
        super().__init__(upscale_factor, bicubic)
        if width % 4:
            raise ValueError(f"the width is {width}; each block keeps quarters of it, so it must be a multiple of 4")
        self.first = conv(3, width)
        self.blocks = nn.ModuleList([Distillation(width) for _ in range(depth)])
        self.gather = nn.Sequential(conv(width * depth, width, 1), nn.LeakyReLU(SLOPE))
        self.smooth = conv(width, width)
        last = conv(width, 3 * upscale_factor**2)
        self.enlarge = nn.Sequential(last, nn.PixelShuffle(upscale_factor))
        self.quiet(last)

    def detail(self, low: Tensor) -> Tensor:
        """See `SRNetwork`."""
        first = self.first(low)
        given, inside = [], first
        for block in self.blocks:
            inside = block(inside)
            given.append(inside)
        detail: Tensor = self.enlarge(self.smooth(self.gather(torch.cat(given, 1))) + first)
        return detail


class Distillation(nn.Module):
    """Three convolutions whose first quarter is kept, a fourth that gives a quarter; the four quarters are joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept, self.passed = width // 4, width - width // 4
        self.conv1, self.conv2, self.conv3 = conv(width, width), conv(self.passed, width), conv(self.passed, width)
        self.conv4 = conv(self.passed, self.kept)
        self.act = nn.LeakyReLU(SLOPE)
        self.attention, self.join = ContrastAttention(width), conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        quarters, inside = [], x
        for layer in (self.conv1, self.conv2, self.conv3):
            quarter, inside = self.act(layer(inside)).split((self.kept, self.passed), 1)
            quarters.append(quarter)
        joined = torch.cat([*quarters, self.conv4(inside)], 1)
        return x + self.join(self.attention(joined))


class ContrastAttention(nn.Module):
    """Channel attention by each channel's standard deviation plus its mean (section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(width // REDUCTION, 1)
        self.weigh = nn.Sequential(conv(width, narrow, 1), nn.ReLU(), conv(narrow, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        contrast = (((x - mean) ** 2).mean((2, 3), keepdim=True) + FLAT).sqrt()  # at 0 the root has no gradient
        weights: Tensor = self.weigh(contrast + mean)
        return x * weights

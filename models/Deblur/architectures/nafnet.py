"""NAFNet: a U-shaped network without activation functions; gates are products of halves of the channels.

Source: Chen et al. 2022, Simple Baselines for Image Restoration, arXiv 2204.04676, figures 2 to 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.Deblur.architectures.padding import cut, padded

EPSILON = 1e-6


class NAFNet(nn.Module):
    """Degraded RGB (N, 3, H, W) in [0, 1] -> restored, the same shape, of any size.

    Args:
        ngf: channels of the first level; 32 and 64 in the paper.
        encoder: blocks of each level on the way down; each level doubles the channels and halves the resolution.
        middle: blocks at the lowest resolution.
        decoder: blocks of each level on the way up, as many as `encoder`.

    Raises:
        ValueError: `encoder` and `decoder` differ in length.
    """

    def __init__(
        self, ngf: int = 12, encoder: Sequence[int] = (1, 1), middle: int = 2, decoder: Sequence[int] = (1, 1)
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(f"encoder has {len(encoder)} levels and decoder {len(decoder)}; they must be as many")
        widths = [ngf * 2**level for level in range(len(encoder) + 1)]
        self.multiple = 2 ** len(encoder)
        self.intro, self.ending = nn.Conv2d(3, ngf, 3, padding=1), nn.Conv2d(ngf, 3, 3, padding=1)
        self.encoders = nn.ModuleList([blocks(n, width) for n, width in zip(encoder, widths, strict=False)])
        self.downs = nn.ModuleList([nn.Conv2d(width, 2 * width, 2, stride=2) for width in widths[:-1]])
        self.middle = blocks(middle, widths[-1])
        self.ups = nn.ModuleList([_up(width) for width in widths[:0:-1]])
        nn.init.normal_(self.ending.weight, 0.0, 0.01)  # training starts at the input's quality
        nn.init.zeros_(self.ending.get_parameter("bias"))
        self.decoders = nn.ModuleList([blocks(n, width) for n, width in zip(decoder, widths[-2::-1], strict=True)])

    def forward(self, degraded: Tensor) -> Tensor:
        inside = self.intro(padded(degraded, self.multiple))
        kept = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            inside = encoder(inside)
            kept.append(inside)
            inside = down(inside)
        inside = self.middle(inside)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            inside = decoder(up(inside) + kept.pop())
        return degraded + cut(self.ending(inside), degraded)


class Block(nn.Module):
    """x + beta * mix(x), then + gamma * feed(x): figure 3e."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention, self.project = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.feed_in, self.feed_out = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated = gate(self.depthwise(self.widen(self.norm1(x))))
        gated = gated * self.attention(gated.mean((2, 3), keepdim=True))
        x = x + self.beta * self.project(gated)
        return x + self.gamma * self.feed_out(gate(self.feed_in(self.norm2(x))))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / ((centred**2).mean(1, keepdim=True) + EPSILON).sqrt()
        return scaled * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def gate(x: Tensor) -> Tensor:
    """The product of the two halves of the channels: the paper's SimpleGate."""
    one, other = x.chunk(2, 1)
    return one * other


def blocks(count: int, width: int) -> nn.Sequential:
    """That many blocks."""
    return nn.Sequential(*(Block(width) for _ in range(count)))


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2))

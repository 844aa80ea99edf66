"""U-Net, small, as a restoration network: it learns what the degraded image lacks.

Source: Ronneberger et al. 2015, U-Net, arXiv 1505.04597. Differences: convolutions keep the size, the paper's 64 first
channels and four halvings are options, and the input is added to the output.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.Deblur.architectures.padding import cut, padded


class UNet(nn.Module):
    """Degraded RGB (N, 3, H, W) in [0, 1] -> restored, the same shape, of any size.

    Args:
        ngf: channels of the first level; each halving doubles them.
        halvings: of the resolution, >= 1; the paper has four.
    """

    def __init__(self, ngf: int = 12, halvings: int = 2) -> None:
        super().__init__()
        widths = [ngf * 2**level for level in range(halvings + 1)]
        inner = list(pairwise(widths))
        self.multiple = 2**halvings
        self.first = Pair(3, ngf)
        self.down = nn.ModuleList([nn.Sequential(nn.MaxPool2d(2), Pair(a, b)) for a, b in inner])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in inner[::-1]])
        self.joined = nn.ModuleList([Pair(2 * a, a) for a, _ in inner[::-1]])
        self.last = nn.Conv2d(ngf, 3, 1)
        nn.init.normal_(self.last.weight, 0.0, 0.01)  # training starts at the input's quality
        nn.init.zeros_(self.last.get_parameter("bias"))

    def forward(self, degraded: Tensor) -> Tensor:
        levels = [self.first(padded(degraded, self.multiple))]
        for down in self.down:
            levels.append(down(levels[-1]))
        inside = levels.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            inside = joined(torch.cat([levels.pop(), up(inside)], 1))
        return degraded + cut(self.last(inside), degraded)


class Pair(nn.Sequential):
    """Two convolutions, each with a ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
        )
        for layer in (self[0], self[2]):
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))

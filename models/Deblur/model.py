"""DeblurGAN's networks: the generator, a lighter one, and the discriminator.

Networks. Source: Kupyn et al. 2018, DeblurGAN, arXiv 1711.07064, section 4.1; the discriminator is PatchGAN (Isola et
al. 2017, arXiv 1611.07004).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Layer = Callable[[int, int], nn.Module]
Norm = Callable[[int], nn.Module]
GAIN = 0.1  # of the last layer: without it Adam's first steps, summed over 49 pixels, silence the units before it
NORMS: dict[str, Norm] = {"none": nn.Identity, "instance": nn.InstanceNorm2d}


class Generator(nn.Module):
    """Blurred RGB (N, 3, H, W) in [0, 1] -> restored, the same shape, not clamped; H and W are multiples of 4.

    It learns what the blurred image lacks: the output is the input plus the network's residual, so that training
    starts at the input's own quality. Strided convolutions (the paper has two), residual blocks at the low resolution,
    as many transposed convolutions.

    The paper's instance norm takes each image's contrast away, which the residual must follow; the default is
    without it, from He's initialization (docs/deblur.md compares the two).

    Args:
        ngf: channels of the first layer; each halving doubles them.
        blocks: residual blocks, >= 0.
        kind: `resnet`, or `mobile` with depthwise separable convolutions in the blocks.
        norm: `instance`, or `none`.
        halvings: of the resolution before the blocks, 1 or 2. One learns in far fewer steps.
        dropout: share of the values that each block drops at random while training, [0, 1); 0.5 in the paper.

    Attributes:
        arguments: the constructor's arguments; `Generator(**arguments)` has the same structure.
    """

    def __init__(
        self,
        ngf: int = 12,
        blocks: int = 3,
        kind: str = "resnet",
        norm: str = "none",
        halvings: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.arguments = {"ngf": ngf, "blocks": blocks, "kind": kind, "norm": norm, "halvings": halvings}
        self.arguments["dropout"] = dropout
        layer: Layer = _separable if kind == "mobile" else _same_size
        normalise = NORMS[norm]
        self.first = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), normalise(ngf), nn.ReLU())
        widths = [ngf * 2**i for i in range(halvings + 1)]
        self.down = nn.Sequential(*(_down(a, b, normalise) for a, b in pairwise(widths)))
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1], layer, normalise, dropout) for _ in range(blocks)))
        self.up = nn.Sequential(*(_up(a, b, normalise) for a, b in pairwise(widths[::-1])))
        self.last = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7))
        self.apply(_initialise if norm == "instance" else _initialise_he)
        weight = self.last[1].weight
        assert isinstance(weight, Tensor)
        nn.init.normal_(weight, 0.0, 0.01)  # the residual starts near zero

    def forward(self, blurred: Tensor) -> Tensor:
        inside = self.blocks(self.down(self.first(2 * blurred - 1)))
        return blurred + torch.tanh(GAIN * self.last(self.up(inside)))


class ResidualBlock(nn.Module):
    """x + norm(conv(dropout(relu(norm(conv(x))))))."""

    def __init__(self, channels: int, layer: Layer, normalise: Norm, dropout: float) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu = layer(channels, channels), normalise(channels), nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2, self.norm2 = layer(channels, channels), normalise(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.dropout(self.relu(self.norm1(self.conv1(x))))))


class Discriminator(nn.Module):
    """PatchGAN: RGB (N, 3, H, W) in [0, 1] -> a score for each patch, (N, 1, h, w), higher for sharp images.

    Args:
        ndf: channels of the first layer.
        layers: strided convolutions; 3 see patches of 70 x 70 pixels.

    Attributes:
        arguments: the constructor's arguments.
    """

    def __init__(self, ndf: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.arguments = {"ndf": ndf, "layers": layers}
        widths = [ndf * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1),
                nn.InstanceNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.layers(2 * image - 1)
        return scores


def _same_size(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, padding=1)


def _separable(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, before, 3, padding=1, groups=before), nn.Conv2d(before, after, 1))


def _down(before: int, after: int, normalise: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), normalise(after), nn.ReLU())


def _up(before: int, after: int, normalise: Norm) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(convolution, normalise(after), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    """Normal with standard deviation 0.02, as the authors' code does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _initialise_he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)

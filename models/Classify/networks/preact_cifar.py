"""The pre-activation residual networks for CIFAR with the names that Distiller's schedules use.

`layer1.0.pre_bn`, `pre_relu`, `conv1`, `bn`, `relu`, `conv2`, `downsample`; `final_bn`, `final_relu`, `fc`.
Distiller's `preact_resnet20_cifar` and its kin; the `_conv_ds` ones have a convolution where the shape changes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class PreactNamedBlock(nn.Module):
    """Norm and ReLU before each convolution (He et al. 2016, Identity Mappings, arXiv 1603.05027, fig. 4e).

    Args:
        channels_in: of the input.
        channels_out: of both convolutions.
        stride: of the first.
        conv_downsample: where the shape changes, a 1 x 1 convolution of the normalised input; else the input is
            averaged over 2 x 2 positions and padded with zero channels (option A of He et al. 2015).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, conv_downsample: bool) -> None:
        super().__init__()
        self.pre_bn, self.pre_relu = nn.BatchNorm2d(channels_in), nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(channels_out), nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.conv_downsample = conv_downsample
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            more = channels_out - channels_in
            padded = nn.Sequential(nn.AvgPool2d(2), nn.ConstantPad3d((0, 0, 0, 0, more // 2, more - more // 2), 0.0))
            convolved = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = convolved if conv_downsample else padded

    def forward(self, x: Tensor) -> Tensor:
        ready = self.pre_relu(self.pre_bn(x))
        out = self.conv2(self.relu(self.bn(self.conv1(ready))))
        if self.downsample is None:
            return out + x
        return out + self.downsample(ready if self.conv_downsample else x)


class PreactResNetCifar(nn.Module):
    """Three stages of `blocks` blocks; the depth is 6 * blocks + 2.

    Args:
        blocks: in each stage, >= 1.
        conv_downsample: see `PreactNamedBlock`.
        num_classes: outputs.
        in_channels: of the images.
        width_mult: factor of the channels, > 0.
    """

    def __init__(
        self, blocks: int, conv_downsample: bool, num_classes: int, in_channels: int = 3, width_mult: float = 1.0
    ) -> None:
        super().__init__()
        widths = [max(1, round(width * width_mult)) for width in WIDTHS]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        channels = widths[0]
        for number, width in enumerate(widths, 1):
            first = PreactNamedBlock(channels, width, 1 if number == 1 else 2, conv_downsample)
            rest = [PreactNamedBlock(width, width, 1, conv_downsample) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            channels = width
        self.final_bn, self.final_relu = nn.BatchNorm2d(channels), nn.ReLU()
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(self.final_relu(self.final_bn(x))), 1))


def preact_by_depth(depth: int, conv_downsample: bool) -> Callable[..., PreactResNetCifar]:
    """The maker of the network of 6n + 2 layers."""

    def make(
        num_classes: int, in_channels: int = 3, image_size: int = 32, width_mult: float = 1.0
    ) -> PreactResNetCifar:
        return PreactResNetCifar((depth - 2) // 6, conv_downsample, num_classes, in_channels, width_mult)

    return make


PREACT: dict[str, Callable[..., nn.Module]] = {
    f"preact_resnet{depth}_cifar{'_conv_ds' if convolved else ''}": preact_by_depth(depth, convolved)
    for depth in (20, 32, 44, 56, 110)
    for convolved in (False, True)
}

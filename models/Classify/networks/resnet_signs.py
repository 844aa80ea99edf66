"""The 50-layer residual network of the hand-sign recipes, for images of 64 x 64."""

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)  # of the bottlenecks; a stage's output is four times as wide
BLOCKS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1 x 1 (with the stride), 3 x 3, 1 x 1, each with BatchNorm, added to the shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels_in, width, 1, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if projected:
            projection = nn.Conv2d(channels_in, 4 * width, 1, stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


class ResNetSigns(nn.Module):
    """ResNet-50 (He et al. 2015, arXiv 1512.03385, table 1) in its first form: the stride is in the 1 x 1 convolution.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: not used: global pooling takes any size from 32 pixels.
        width_mult: factor of the channels, > 0.
        dropout: before the classifier, [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 64,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [max(1, round(width * width_mult)) for width in WIDTHS]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, 3)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        channels = widths[0]
        for i, (width, blocks) in enumerate(zip(widths, BLOCKS, strict=True)):
            stage = [Bottleneck(channels, width, 1 if i == 0 else 2, True)]
            channels = 4 * width
            stage += [Bottleneck(channels, width, 1, False) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.avgpool, self.dropout, self.fc = (
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(dropout),
            nn.Linear(channels, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))

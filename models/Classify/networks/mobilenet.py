"""MobileNet v1."""

import torch
from torch import Tensor, nn

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """Thirteen depthwise separable blocks (Howard et al. 2017, arXiv 1704.04861, table 1); layers as in Distiller.

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
        image_size: int = 224,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = max(1, round(32 * width_mult))
        first = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        layers = [first]
        for width, stride in BLOCKS:
            wide = max(1, round(width * width_mult))
            layers.append(_separable(channels, wide, stride))
            channels = wide
        self.model = nn.Sequential(*layers)
        self.pool, self.dropout, self.fc = (
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(dropout),
            nn.Linear(channels, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(torch.flatten(self.pool(self.model(x)), 1)))


def _separable(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )

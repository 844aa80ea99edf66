"""AlexNet with batch normalisation."""

import torch
from torch import Tensor, nn


class AlexNetBN(nn.Module):
    """Five convolutions with BatchNorm and three linear layers (Krizhevsky 2014, arXiv 1404.5997, one tower).

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: not used: pooling to 6 x 6 takes any size from 63 pixels.
        dropout: before the hidden linear layers, [0, 1).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0) -> None:
        super().__init__()
        if image_size < 63:
            raise ValueError("it needs 63 pixels or more")
        self.features = nn.Sequential(
            *_conv(in_channels, 64, 11, 4, 2), nn.MaxPool2d(3, 2),
            *_conv(64, 192, 5, 1, 2), nn.MaxPool2d(3, 2),
            *_conv(192, 384, 3, 1, 1), *_conv(384, 256, 3, 1, 1), *_conv(256, 256, 3, 1, 1), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 36, 4096), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _conv(channels_in: int, channels_out: int, size: int, stride: int, padding: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]

"""AlexNet as published schedules know it: without BatchNorm, and DoReFa's with.

`alexnet` has the names of torchvision's (`features.0`, `3`, `6`, `8`, `10`; `classifier.1`, `4`, `6`), which pruning
schedules of Distiller use; `alexnet_bn_dorefa` is Distiller's `alexnet_bn`, whose quantization schedules name
`features.0`, `features.1` (a ReLU), `classifier.5` (the last ReLU) and `classifier.6`.
"""

import torch
from torch import Tensor, nn

LEAST = 63  # pixels


class AlexNet(nn.Module):
    """Five convolutions and three linear layers (Krizhevsky 2014, arXiv 1404.5997, one tower).

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 63 pixels; what is left is pooled to 6 x 6.
        dropout: before the hidden linear layers, [0, 1).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 224, dropout: float = 0.5) -> None:
        super().__init__()
        _check(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 36, 4096), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class AlexNetDorefa(nn.Module):
    """The AlexNet of DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160): grouped convolutions, pooling before the ReLU.

    Nothing of the first convolution is normalised. Arguments as of `AlexNet`, without dropout.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 224) -> None:
        super().__init__()
        _check(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 12, 4), nn.ReLU(),
            *_normed(96, 256, 5, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(),
            *_normed(256, 384, 3, 1), nn.MaxPool2d(3, 2, padding=1), nn.ReLU(),
            *_normed(384, 384, 3, 2), nn.ReLU(),
            *_normed(384, 256, 3, 2), nn.MaxPool2d(3, 2), nn.ReLU(),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Linear(256 * 36, 4096, bias=False), nn.BatchNorm1d(4096), nn.ReLU(),
            nn.Linear(4096, 4096, bias=False), nn.BatchNorm1d(4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _normed(channels_in: int, channels_out: int, size: int, groups: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, size, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels_out, eps=1e-4)]


def _check(image_size: int) -> None:
    if image_size < LEAST:
        raise ValueError(f"it needs {LEAST} pixels or more")

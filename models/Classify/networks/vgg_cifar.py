"""The VGG networks for CIFAR by their published columns, with and without BatchNorm: `features`, then `classifier`.

Distiller's `vgg11_cifar`, ..., `vgg19_bn_cifar`; its schedules name `features.0.weight` and `classifier.weight`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGGPlainCifar(nn.Module):
    """VGG (Simonyan & Zisserman 2014, arXiv 1409.1556, table 1) for small images, with one linear layer.

    Args:
        convolutions: in each of the five stages, >= 1; a 2 x 2 pooling follows each stage.
        batch_norm: BatchNorm behind each convolution.
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 32 pixels; larger ones are pooled.
        width_mult: factor of the channels, > 0.
    """

    def __init__(
        self,
        convolutions: tuple[int, ...],
        batch_norm: bool,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        width_mult: float = 1.0,
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError("it needs 32 pixels or more")
        layers: list[nn.Module] = []
        channels = in_channels
        for count, width in zip(convolutions, WIDTHS, strict=True):
            wide = max(1, round(width * width_mult))
            for _ in range(count):
                layers.append(nn.Conv2d(channels, wide, 3, padding=1))
                layers += [nn.BatchNorm2d(wide)] * batch_norm
                layers.append(nn.ReLU())
                channels = wide
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):  # without it so deep a network without shortcuts learns late
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def vgg_by_depth(depth: int, batch_norm: bool) -> Callable[..., VGGPlainCifar]:
    """The maker of one column."""

    def make(num_classes: int, in_channels: int = 3, image_size: int = 32, width_mult: float = 1.0) -> VGGPlainCifar:
        return VGGPlainCifar(STAGES[depth], batch_norm, num_classes, in_channels, image_size, width_mult)

    return make


VGG_CIFAR: dict[str, Callable[..., nn.Module]] = {
    f"vgg{depth}{'_bn' if normed else ''}_cifar": vgg_by_depth(depth, normed)
    for depth in STAGES
    for normed in (False, True)
}

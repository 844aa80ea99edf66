"""A small network of depthwise and pointwise blocks, for distillation and network slimming on Food-11."""

from torch import Tensor, nn

WIDTHS = (1, 2, 4, 8, 16, 16, 16, 16)  # channels behind each block, in units of `base`
POOLED = (True, True, True, True, False, False, False, False)


class StudentNet(nn.Module):
    """A convolution, seven blocks of a depthwise 3 x 3 and a pointwise convolution, global average pooling.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: not used: global pooling takes any size from 16 pixels.
        base: channels of the first layer, >= 1; the last has 16 times as many.
        width_mult: factor of all widths but the first and the last, > 0.
        dropout: before the classifier, [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        base: int = 16,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [base * width for width in WIDTHS]
        widths = [widths[0], *(max(1, round(width * width_mult)) for width in widths[1:-1]), widths[-1]]
        first = [nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU6()]
        blocks = [nn.Sequential(*first, *_pool(POOLED[0]))]
        for i in range(1, len(widths)):
            blocks.append(_block(widths[i - 1], widths[i], POOLED[i]))
        self.cnn = nn.Sequential(*blocks)
        self.pool, self.flatten, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.flatten(self.pool(self.cnn(x)))))


def _block(channels_in: int, channels_out: int, pooled: bool) -> nn.Sequential:
    """Depthwise, BatchNorm, ReLU6, pointwise with bias, and pooling in the first half of the network."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.ReLU6(),
        nn.Conv2d(channels_in, channels_out, 1),
        *_pool(pooled),
    )


def _pool(pooled: bool) -> list[nn.Module]:
    return [nn.MaxPool2d(2)] if pooled else []

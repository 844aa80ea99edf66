"""The residual networks for CIFAR, with and without shortcuts, and with early exits.

Here: `ResNetCifar`, `PreactResNet20` and the named depths. The names of layers are those that Distiller's schedules
use (`layer1.0.conv1`, `layer2.0.downsample.0`, `fc`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

STAGES = ("layer1", "layer2", "layer3")


class Block(nn.Module):
    """Two 3 x 3 convolutions; with a shortcut, their result is added to the input.

    Args:
        channels_in: of the input.
        channels_out: of both convolutions.
        stride: of the first.
        shortcut: whether there is one; a 1 x 1 convolution where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(channels_out), nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels_out), nn.ReLU()
        self.shortcut = shortcut
        self.downsample: nn.Module | None = None
        if shortcut and (stride != 1 or channels_in != channels_out):
            self.downsample = _downsample(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.shortcut:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu2(out)


class PreactBlock(nn.Module):
    """Norm and ReLU before each convolution (He et al. 2016, Identity Mappings, arXiv 1603.05027, fig. 4e)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(channels_in), nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels_out), nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(ready))))
        return out + (x if self.downsample is None else self.downsample(ready))


class ResNetCifar(nn.Module):
    """Three stages of `blocks` blocks with 16, 32 and 64 channels (He et al. 2015, arXiv 1512.03385, section 4.2).

    In training mode a network with exits returns a tuple: its own logits, then those of each exit. In eval mode it
    returns its own logits alone; exits.py leaves early.

    Args:
        blocks: in each stage; the depth is 6 * blocks + 2.
        num_classes: outputs.
        in_channels: of the images.
        shortcut: False makes a plain network.
        exits: stages behind which there is an early exit (Teerapittayanon et al. 2016, BranchyNet, arXiv 1709.01686).
        width_mult: factor of the channels, > 0.
        dropout: before the classifier, [0, 1).

    Attributes:
        stage_names: from the input on.
        exit_names: the stages behind which there is an exit, from the input on.

    Raises:
        ValueError: an exit behind something that is not a stage, or behind the last one.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        in_channels: int = 3,
        shortcut: bool = True,
        exits: Sequence[str] = (),
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if set(exits) - set(STAGES[:-1]):
            raise ValueError(f"an exit is behind {' or '.join(STAGES[:-1])}; given {', '.join(exits)}")
        widths = [max(1, round(width * width_mult)) for width in (16, 16, 32, 64)]
        self.conv1, self.bn1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        for i, stage in enumerate(STAGES):
            first = Block(widths[i], widths[i + 1], 1 if i == 0 else 2, shortcut)
            rest = [Block(widths[i + 1], widths[i + 1], 1, shortcut) for _ in range(blocks - 1)]
            self.add_module(stage, nn.Sequential(first, *rest))
        self.avgpool, self.dropout, self.fc = (
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(dropout),
            nn.Linear(widths[3], num_classes),
        )
        self.stage_names, self.exit_names = list(STAGES), [stage for stage in STAGES if stage in exits]
        if exits:
            heads = {stage: _head(widths[STAGES.index(stage) + 1], num_classes) for stage in self.exit_names}
            self.exits = nn.ModuleDict(heads)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, early = self.stem(x), []
        for name in STAGES:
            x = self.get_submodule(name)(x)
            if self.training and name in self.exit_names:
                early.append(self.exits[name](x))
        return (self.classify(x), *early) if early else self.classify(x)

    def stem(self, x: Tensor) -> Tensor:
        """What is in front of the first stage."""
        return self.relu(self.bn1(self.conv1(x)))

    def classify(self, features: Tensor) -> Tensor:
        """What the last stage gave -> logits (n, classes)."""
        return self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))


class PreactResNet20(nn.Module):
    """Three stages of three blocks with the norms in front; a last norm before the classifier."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [max(1, round(width * width_mult)) for width in (16, 16, 32, 64)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        for i, stage in enumerate(STAGES):
            blocks = [PreactBlock(widths[i], widths[i + 1], 1 if i == 0 else 2)]
            blocks += [PreactBlock(widths[i + 1], widths[i + 1]) for _ in range(2)]
            self.add_module(stage, nn.Sequential(*blocks))
        self.final_bn, self.final_relu = nn.BatchNorm2d(widths[3]), nn.ReLU()
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout)
        self.fc = nn.Linear(widths[3], num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in STAGES:
            x = self.get_submodule(stage)(x)
        return self.fc(self.dropout(torch.flatten(self.avgpool(self.final_relu(self.final_bn(x))), 1)))


def by_depth(depth: int) -> Callable[..., ResNetCifar]:
    """The maker of the network of 6n + 2 layers."""

    def make(
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        exits: Sequence[str] = (),
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> ResNetCifar:
        return ResNetCifar((depth - 2) // 6, num_classes, in_channels, True, exits, width_mult, dropout)

    return make


def plain20(
    num_classes: int, in_channels: int = 3, image_size: int = 32, width_mult: float = 1.0, dropout: float = 0.0
) -> ResNetCifar:
    """resnet20 without its shortcuts."""
    return ResNetCifar(3, num_classes, in_channels, False, (), width_mult, dropout)


def _downsample(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


def _head(channels: int, num_classes: int) -> nn.Sequential:
    """A 3 x 3 convolution with norm, pooling, a linear layer."""
    conv = nn.Conv2d(channels, channels, 3, 2, 1, bias=False)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), *pooled)


def _initialise(network: nn.Module) -> None:
    """He's initialization of the convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

"""VGG networks: one whose layers have names and can be looked into, and the one for CIFAR."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)
CIFAR_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # VGG-16; 0 = pooling


class NamedVGG(nn.Module):
    """VGG (Simonyan & Zisserman 2014, arXiv 1409.1556, column D) with layers named conv1_1 ... classifier.

    Args:
        convolutions: in each of the five stages, >= 1; a ReLU follows each, a 2 x 2 pooling each stage.
        hidden: widths of the linear layers before the classifier.
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 32 pixels.
        width_mult: factor of the channels, > 0.
        batch_norm: BatchNorm between each convolution and its ReLU, named bn1_1 ...
        dropout: before each linear layer, [0, 1).
    """

    def __init__(
        self,
        convolutions: Sequence[int],
        hidden: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        width_mult: float = 1.0,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError("it needs 32 pixels or more")
        channels = in_channels
        self.order: list[str] = []
        for stage, (count, width) in enumerate(zip(convolutions, WIDTHS, strict=True), 1):
            for place in range(1, count + 1):
                wide = max(1, round(width * width_mult))
                self._add(f"conv{stage}_{place}", nn.Conv2d(channels, wide, 3, padding=1))
                if batch_norm:
                    self._add(f"bn{stage}_{place}", nn.BatchNorm2d(wide))
                self._add(f"relu{stage}_{place}", nn.ReLU())
                channels = wide
            self._add(f"pool{stage}", nn.MaxPool2d(2, 2))
        self._add("flatten", nn.Flatten())
        wide = channels * (image_size // 32) ** 2
        for i, width in enumerate(hidden, 6):
            self._add(f"drop{i}", nn.Dropout(dropout))
            self._add(f"fc{i}", nn.Linear(wide, width))
            self._add(f"relu{i}", nn.ReLU())
            wide = width
        self._add("classifier", nn.Linear(wide, num_classes))
        _initialise(self)

    def forward(self, x: Tensor, features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The logits; with `features` also what each layer gave, by its name."""
        given: dict[str, Tensor] = {}
        for name in self.order:
            x = self.get_submodule(name)(x)
            if features:
                given[name] = x
        return (x, given) if features else x

    def _add(self, name: str, layer: nn.Module) -> None:
        self.add_module(name, layer)
        self.order.append(name)


def vgg16_named(
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    width_mult: float = 1.0,
    dropout: float = 0.0,
) -> NamedVGG:
    """Thirteen convolutions, two hidden linear layers of 512 and the classifier."""
    return NamedVGG((2, 2, 3, 3, 3), (512, 512), num_classes, in_channels, image_size, width_mult, True, dropout)


def vgg6_named(
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    width_mult: float = 1.0,
    dropout: float = 0.0,
) -> NamedVGG:
    """Its shallow student: one convolution in each stage and one linear layer."""
    return NamedVGG((1, 1, 1, 1, 1), (), num_classes, in_channels, image_size, width_mult, True, dropout)


class VGGCifar(nn.Module):
    """VGG-16 with BatchNorm for 32 x 32 images: `features`, then one linear layer `classifier`.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: height and width, at least 32 pixels; larger ones are pooled.
        width_mult: factor of the channels, > 0.
        dropout: before the classifier, [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError("it needs 32 pixels or more")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for width in CIFAR_LAYERS:
            wide = max(1, round(width * width_mult))
            if width == 0:
                more: list[nn.Module] = [nn.MaxPool2d(2, 2)]
            else:
                more = [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
                channels = wide
            for layer in more:
                layers[str(len(layers))] = layer
        self.features = nn.Sequential(layers)
        self.pool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(torch.flatten(self.pool(self.features(x)), 1)))


def _initialise(network: nn.Module) -> None:
    """He's initialization of the convolutions, without which so deep a network without shortcuts learns late."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.get_parameter("bias"))

"""Networks by name: what `--arch` may be, and a network from plain data.

`ZOO`, `build_network`. A checkpoint holds the arguments of `build_network` and no code.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from engine.architectures.zoo import Zoo
from models.Classify.networks import (
    alexnet,
    alexnet_bn,
    lenet,
    mobilenet,
    resnet_cifar,
    resnet_signs,
    simplenet,
    studentnet,
    vgg,
)
from models.Classify.networks.foreign import from_timm, from_torchvision
from models.Classify.networks.preact_cifar import PREACT
from models.Classify.networks.vgg_cifar import VGG_CIFAR

SETTINGS = ("width_mult", "base", "dropout", "exits")  # options of `train.py` that are a network's

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet.AlexNet,
    "alexnet_bn": alexnet_bn.AlexNetBN,
    "alexnet_bn_dorefa": alexnet.AlexNetDorefa,
    "lenet5": lenet.LeNet5,
    "mobilenet": mobilenet.MobileNetV1,
    "plain20": resnet_cifar.plain20,
    "preact_resnet20": resnet_cifar.PreactResNet20,
    "resnet8": resnet_cifar.by_depth(8),
    "resnet20": resnet_cifar.by_depth(20),
    "resnet32": resnet_cifar.by_depth(32),
    "resnet44": resnet_cifar.by_depth(44),
    "resnet56": resnet_cifar.by_depth(56),
    "resnet110": resnet_cifar.by_depth(110),
    "resnet_signs": resnet_signs.ResNetSigns,
    "simplenet": simplenet.SimpleNet,
    "simplenet_mnist": simplenet.SimpleNetMnist,
    "studentnet": studentnet.StudentNet,
    "vgg16_named": vgg.vgg16_named,
    "vgg6_named": vgg.vgg6_named,
    "vgg_cifar": vgg.VGGCifar,
    **PREACT,
    **VGG_CIFAR,
}
ZOO = Zoo(
    ARCHITECTURES,
    usual={"num_classes": 10, "in_channels": 3, "image_size": 32},
    options=SETTINGS,
    libraries={"torchvision": from_torchvision, "timm": from_timm},
    library_settings=SETTINGS,
    purpose=" for images of {image_size} pixels",
)


def build_network(
    arch: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    settings: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> nn.Module:
    """A new network.

    Args:
        arch: a name of `ARCHITECTURES`, `torchvision:NAME`, `timm:NAME`, or a network of one's own.
        num_classes: outputs, >= 1.
        in_channels: 1 or 3.
        image_size: height and width, pixels.
        settings: further arguments of that architecture, such as `dropout`, `width_mult`, `exits`.
        source: see `Zoo`.

    Raises:
        UserError: there is no such architecture, it does not take a setting, or it cannot have this size.
    """
    given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return ZOO(arch, settings=settings, source=source, **given)


settings_of = ZOO.settings_of

"""Networks by name: what `--arch` may be, and a network from plain data.

The table, `build_network`. A checkpoint holds the arguments of `build_network` and no code; a name that is not in the
table, `torchvision:NAME` or `timm:NAME` is refused.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compress.errors import UserError, did_you_mean
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

GIVEN = ("num_classes", "in_channels", "image_size")  # by the data; the other arguments are settings

SETTINGS = ("width_mult", "base", "dropout", "exits")  # options of `train.py` that are a network's

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet.AlexNet,
    "alexnet_bn": alexnet_bn.AlexNetBN,
    "alexnet_bn_dorefa": alexnet.AlexNetDorefa,
    "lenet5": lenet.LeNet5,
    "mobilenet": mobilenet.MobileNetV1,
    "plain20": resnet_cifar.plain20,
    "preact_resnet20": resnet_cifar.PreactResNet20,
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
FOREIGN: dict[str, Callable[..., nn.Module]] = {"torchvision": from_torchvision, "timm": from_timm}


def build_network(
    arch: str, num_classes: int, in_channels: int = 3, image_size: int = 32, settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """A new network.

    Args:
        arch: a name of `ARCHITECTURES`, `torchvision:NAME` or `timm:NAME`.
        num_classes: outputs, >= 1.
        in_channels: 1 or 3.
        image_size: height and width, pixels.
        settings: further arguments of that architecture, such as `dropout`, `width_mult`, `exits`.

    Returns:
        a network with an attribute `arguments`, a dict: `build_network(**arguments)` has the same structure.

    Raises:
        UserError: there is no such architecture, it does not take a setting, or it cannot have this size.
    """
    chosen = dict(settings or {})
    if set(chosen) - set(SETTINGS):  # a checkpoint may come from anyone, and libraries take settings that load files
        raise UserError(f"a network's settings are {', '.join(SETTINGS)}; given are {', '.join(map(str, chosen))}")
    prefix, colon, name = arch.partition(":")
    if colon and prefix in FOREIGN:
        network = FOREIGN[prefix](name, num_classes, in_channels, image_size, chosen)
    else:
        network = _own(arch, {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}, chosen)
    network.arguments = {  # type: ignore[assignment]
        "arch": arch,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": image_size,
        "settings": chosen,
    }
    return network


def settings_of(arch: str) -> list[str]:
    """The names of the settings that an architecture of ours takes."""
    return [name for name in inspect.signature(_maker(arch)).parameters if name not in GIVEN]


def _own(arch: str, given: dict[str, int], settings: dict[str, Any]) -> nn.Module:
    allowed = settings_of(arch)
    for name in settings:
        if name not in allowed:
            takes = f"it takes --{', --'.join(allowed)}" if allowed else "it takes no settings"
            raise UserError(f"--{name} does not apply to --arch={arch}; {takes}")
    try:
        return _maker(arch)(**given, **settings)
    except (RuntimeError, ZeroDivisionError, ValueError) as e:
        raise UserError(f"--arch={arch} cannot be built for images of {given['image_size']} pixels: {e}") from e


def _maker(arch: str) -> Callable[..., nn.Module]:
    if arch not in ARCHITECTURES:
        raise UserError(
            f"--arch={arch}: unknown architecture; {did_you_mean(arch, ARCHITECTURES)}; torchvision:NAME and timm:NAME "
            "name those of the two libraries"
        )
    return ARCHITECTURES[arch]

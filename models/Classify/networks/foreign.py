"""Networks of torchvision and timm by name.

Construction with our number of classes and channels.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from compress.errors import UserError, did_you_mean


def from_torchvision(name: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
    """A classifier of torchvision, untrained; the arguments are those of a `Library` (engine/architectures/zoo.py).

    Raises:
        UserError: torchvision has no such classifier, or it does not take the size or a setting.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"--arch=torchvision:{name}: unknown classifier; {did_you_mean(name, known)}")
    arguments = {"num_classes": given["num_classes"], **settings}
    if name.startswith("vit_"):
        arguments["image_size"] = given["image_size"]
    if name.startswith(("googlenet", "inception")):
        arguments.update(init_weights=False, aux_logits=False)
    try:
        network = models.get_model(name, weights=None, **arguments)
    except (TypeError, ValueError, RuntimeError) as e:
        raise UserError(f"--arch=torchvision:{name}: {e}") from e
    if given["in_channels"] != 3:
        _replace_first_convolution(network, given["in_channels"])
    return network


def from_timm(name: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
    """A network of timm, untrained; the arguments are those of a `Library` (engine/architectures/zoo.py).

    Raises:
        UserError: timm is not installed, has no such network, or it does not take a setting.
    """
    try:
        import timm
    except ImportError as e:
        raise UserError(f"--arch=timm:{name} needs the package timm, which is not installed: pip install timm") from e
    if not timm.is_model(name):
        raise UserError(f"--arch=timm:{name}: unknown network; {did_you_mean(name, timm.list_models())}")
    try:
        data = {"num_classes": given["num_classes"], "in_chans": given["in_channels"]}
        return timm.create_model(name, pretrained=False, **data, **settings)
    except (TypeError, ValueError, RuntimeError, AssertionError) as e:
        raise UserError(f"--arch=timm:{name}: {e}") from e


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """torchvision's networks take three channels: the layer that reads them is made anew."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(
                in_channels, module.out_channels, _pair(module.kernel_size), _pair(module.stride),
                module.padding if isinstance(module.padding, str) else _pair(module.padding),
                _pair(module.dilation), module.groups, module.bias is not None,
            )  # fmt: skip
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, new)
            return
    raise UserError(f"{type(network).__name__} has no convolution that could read {in_channels} channels")


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return height, width

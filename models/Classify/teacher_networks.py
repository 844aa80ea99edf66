"""Networks that teach a classifier, by the name that a schedule gives them.

`ARCHITECTURE`, `ARCHITECTURE(setting=value, ...)`, and a library's trained network.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from compress.errors import UserError, did_you_mean
from engine.saved.rebuild import load_exact_weights
from models.Classify.initial_weights import library_classes, library_weights
from models.Classify.zoo import build_network


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


KINDS: dict[str, tuple[Callable[[str], Any], str]] = {  # setting -> its value from text, in words
    "width_mult": (_number, "a number"),
    "base": (int, "a whole number"),
    "dropout": (_number, "a number"),
    "exits": (lambda text: text.split(","), "stages by commas"),
}


def named_network(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A new network of `resnet20`, or with settings of `vgg16_named(width_mult=0.25)`.

    Raises:
        UserError: there is no such architecture, or a setting is none of its own or has no such value.
    """
    arch, settings = _parsed(name)
    return build_network(arch, num_classes, in_channels, image_size, settings)


def pretrained_network(name: str, in_channels: int, image_size: int) -> nn.Module:
    """A library's trained network as it is, with the classes that it was trained for.

    Raises:
        UserError: it is of no library, its weights cannot be fetched, or it does not read such images.
    """
    arch, settings = _parsed(name)
    if settings:
        raise UserError(f"{name}=pretrained: a trained network takes no settings; give {arch}=pretrained")
    if in_channels != 3:
        raise UserError(f"{name}=pretrained reads images of three channels, and these have one; give --channels=3")
    weights = library_weights(arch)
    network = build_network(arch, library_classes(arch), in_channels, image_size)
    own = network.state_dict().keys()
    load_exact_weights(
        network, {key: value for key, value in weights.items() if key in own}
    )  # without auxiliary classifiers
    return network


def _parsed(name: str) -> tuple[str, dict[str, Any]]:
    """`vgg16_named(width_mult=0.25)` -> architecture and settings."""
    arch, parenthesis, inside = name.partition("(")
    pairs = re.split(r",\s*(?=\w+\s*=)", inside.removesuffix(")")) if parenthesis else []
    settings = {}
    for pair in pairs:
        setting, equals, text = (each.strip() for each in pair.partition("="))
        if setting not in KINDS or not equals:
            raise UserError(f"{name}: unknown setting {setting!r} of a network; {did_you_mean(setting, KINDS)}")
        convert, words = KINDS[setting]
        try:
            settings[setting] = convert(text)
        except ValueError as e:
            raise UserError(f"{name}: {setting} is {text!r}; it must be {words}") from e
    return arch.strip(), settings

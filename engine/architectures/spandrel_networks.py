"""Restoration networks of the package spandrel: `spandrel:NAME`.

`from_spandrel`. Untrained; files of its authors load by `--weights`.
"""

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from compress.errors import UserError, did_you_mean
from engine.architectures.own_modules import own_code

SCALES = ("scale", "upscale", "upscale_factor", "up_scale", "upscaling_factor")  # what classes call it
COLORS = ("num_in_ch", "num_out_ch", "in_nc", "out_nc", "n_colors", "img_channel", "in_channels", "out_channels")


def from_spandrel(name: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
    """A network of spandrel for RGB images.

    Args:
        name: of spandrel's registry, or of one of the classes of an entry that has several.
        given: `upscale_factor`, where the application enlarges.
        settings: further arguments of its constructor.

    Raises:
        UserError: spandrel is not installed, has no such network, or it does not take an argument.
    """
    arch = f"--arch=spandrel:{name}"
    try:
        from spandrel import MAIN_REGISTRY
    except ImportError as e:
        raise UserError(f"{arch} needs the package spandrel, which is not installed: pip install spandrel") from e
    classes = _classes(MAIN_REGISTRY)
    if name not in classes:
        raise UserError(f"{arch}: unknown network; {did_you_mean(name, classes)}")
    parameters = inspect.signature(classes[name]).parameters
    unknown = [setting for setting in settings if setting not in parameters]
    if unknown:
        raise UserError(f"{arch} takes no argument {unknown[0]!r}; {did_you_mean(unknown[0], parameters)}")
    scale = {each: given.get("upscale_factor", 1) for each in SCALES if each in parameters}
    colors = {each: 3 for each in COLORS if each in parameters and parameters[each].default in (inspect._empty, 1)}
    with own_code(f"{arch} cannot be built"):
        network: nn.Module = classes[name](**{**scale, **colors, **settings})
    return network


def _classes(registry: Any) -> dict[str, type[nn.Module]]:
    """Entry -> its class; of an entry with several, each class under its own name."""
    found: dict[str, type[nn.Module]] = {}
    for support in registry.architectures():
        entry = support.architecture
        [made] = get_args(next(base for base in type(entry).__orig_bases__ if get_args(base)))
        several = get_args(made)
        found |= {each.__name__: each for each in several} if several else {entry.id: made}
    return found

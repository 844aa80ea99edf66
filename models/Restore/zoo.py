"""Restoration networks by name: those of super-resolution, at a factor of 1, and of deblurring.

`ZOO`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from engine.architectures.spandrel_networks import from_spandrel
from engine.architectures.zoo import Zoo
from models.Deblur import zoo as deblurring
from models.SR import zoo as super_resolution


def _of_one_size(makers: Mapping[str, Callable[..., nn.Module]]) -> dict[str, Callable[..., nn.Module]]:
    """Networks of super-resolution that enlarge by 1 and, where that is a choice, are added to their input."""
    fixed = {"upscale_factor": 1, "bicubic": True}
    return {
        name: partial(make, **{key: value for key, value in fixed.items() if key in inspect.signature(make).parameters})
        for name, make in makers.items()
    }


OPTIONS = ("width", "depth")  # arguments of networks that are options of `train.py`
ZOO = Zoo(
    {**_of_one_size(super_resolution.ZOO.architectures), **deblurring.ZOO.architectures},
    usual={"upscale_factor": 1},
    options=OPTIONS,
    libraries={"spandrel": from_spandrel},
    hidden=("colors", "kind", "bicubic"),
)

"""Numbers of modules that a removal can set: which they are.

Here: `whole_number` and `settable`; `counted_place`, of the numbers that torch's layers keep beside their weights. A
count may be an attribute of the instance or of its class; a property, a slot or another descriptor writes somewhere
unknown, and is left alone: if the code goes by it, a trial shows that it follows by itself, or pins what hangs on it.
Called by the channel graph, by `thinning/plan.py` and by `thinning/recipe.py`.
"""

import numbers
from typing import Any

from torch import nn


def whole_number(module: nn.Module | None, name: str) -> int | None:
    """The whole number that a module has under a name, numpy's included; None if it has none."""
    try:
        value = getattr(module, name, None)
    except Exception:  # a property of the user's own runs any code
        return None
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def settable(module: nn.Module, name: str) -> bool:
    """Whether setting this attribute changes this module and nothing else, and can be undone."""
    found: Any = next((vars(kind)[name] for kind in type(module).__mro__ if name in vars(kind)), None)
    setter: Any = type(module).__setattr__  # torch's recurrent layers have their own
    return not hasattr(type(found), "__set__") and setter.__module__.startswith("torch.nn.")


def counted_place(module: nn.Module, name: str) -> tuple[str, int] | None:
    """The parameter of one of torch's layers, and its dimension, that a number beside it counts; None if none does.

    counted_place(nn.Conv2d(3, 8, 3), "out_channels")       # ('weight', 0)
    """
    weight = module._parameters.get("weight")
    kind = next((kind for kind in COUNTED if isinstance(module, kind)), None)
    if weight is None or kind is None or name not in COUNTED[kind]:
        return None
    dim = COUNTED[kind][name]
    if isinstance(module, nn.modules.conv._ConvNd):
        dim = 1 - dim if module.transposed else dim
        dim = 0 if module.groups == module.in_channels == module.out_channels else dim  # depthwise
    # A grouped convolution has a part of its channels along dimension 1.
    return ("weight", dim) if weight.shape[dim] == getattr(module, name) else None


COUNTED: dict[type[nn.Module], dict[str, int]] = {
    nn.modules.conv._ConvNd: {"out_channels": 0, "in_channels": 1},
    nn.Linear: {"out_features": 0, "in_features": 1},
    nn.modules.batchnorm._NormBase: {"num_features": 0},
    nn.GroupNorm: {"num_channels": 0},
    nn.Embedding: {"embedding_dim": 1},
}
"""Those that the layers' own code does not compute with."""

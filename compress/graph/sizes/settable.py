"""Numbers of modules that a removal can set: which they are.

Here: `whole_number` and `settable`. A count may be an attribute of the instance or of its class; a property, a slot
or another descriptor writes somewhere unknown, and is left alone: if the code goes by it, a trial shows that it
follows by itself, or pins what hangs on it. Called by the channel graph, by `thinning/plan.py` and by
`thinning/recipe.py`.
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

"""Every class of torch.optim.lr_scheduler that YAML can express, by its own name.

Registration, and the reason for each class that is refused.
"""

import inspect

from torch.optim import lr_scheduler

from compress.arguments.schema import WIDER
from compress.registry import LR_SCHEDULERS

REFUSED = {
    "LambdaLR": "its lr_lambda is a function, which YAML cannot hold; write a class and register it",
    "MultiplicativeLR": "its lr_lambda is a function, which YAML cannot hold; write a class and register it",
}
WIDER[lr_scheduler.CyclicLR] = {"base_momentum": float | list[float], "max_momentum": float | list[float]}  # by group
# Registered by the other modules of this folder.
OURS = ("ChainedScheduler", "OneCycleLR", "PolynomialLR", "SequentialLR")


def register_torch_schedulers() -> None:
    """Registers the public classes of torch.optim.lr_scheduler, apart from `REFUSED`, `OURS` and the base."""
    for name in lr_scheduler.__all__:
        cls = getattr(lr_scheduler, name)
        if inspect.isclass(cls) and cls is not lr_scheduler.LRScheduler and name not in (*REFUSED, *OURS):
            LR_SCHEDULERS.register(cls)


register_torch_schedulers()

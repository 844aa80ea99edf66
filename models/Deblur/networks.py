"""The networks that a schedule sees, and their names.

The choice between the generator alone and both networks under `netG.` and `netD.`.

A schedule's names are the generator's. Where a schedule writes `netG.` or `netD.` in front of one, it means to tell
the two apart, and then every name in it has one of the two in front.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from engine.architectures.zoo import arguments_of
from models.Deblur.model import Discriminator
from models.Deblur.zoo import ZOO

PREFIXES = ("netG", "netD")


class Networks(nn.Module):
    """The generator as `netG` and, where a schedule names its weights, the discriminator as `netD`.

    Called, it is the generator. Arguments are those of the two.
    """

    def __init__(self, netG: Mapping[str, Any], netD: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.netG = ZOO(**netG)
        self.netD = Discriminator(**netD) if netD is not None else None
        self.arguments = {"netG": arguments_of(self.netG), "netD": None if netD is None else dict(netD)}

    def forward(self, blurred: Tensor) -> Tensor:
        restored: Tensor = self.netG(blurred)
        return restored


def build_networks(**arguments: Any) -> nn.Module:
    """What a checkpoint's arguments say: a generator, or `Networks`."""
    return Networks(**arguments) if "netG" in arguments else ZOO(**arguments)


def prefixes_of(schedule: Any) -> set[str]:
    """Which of `netG` and `netD` a schedule, as plain data, writes in front of a name."""
    if isinstance(schedule, Mapping):
        return set().union(*(prefixes_of(key) | prefixes_of(value) for key, value in schedule.items()))
    if isinstance(schedule, list | tuple):
        return set().union(*map(prefixes_of, schedule))
    if not isinstance(schedule, str):
        return set()
    name = schedule.removeprefix("re:").lstrip("^(").replace("\\.", ".")
    return {prefix for prefix in PREFIXES if name.startswith(f"{prefix}.")}

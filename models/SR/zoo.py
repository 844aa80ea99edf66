"""Super-resolution networks by name: what `--arch` may be, and a network from plain data.

`ZOO`, `build_network`.
"""

from typing import Any

from torch import nn

from engine.architectures.spandrel_networks import from_spandrel
from engine.architectures.zoo import Zoo
from models.C2SRCNN.model import Net
from models.SR.networks.edge import ECBSR, PlainSR
from models.SR.networks.edsr import EDSR
from models.SR.networks.espcn import ESPCN
from models.SR.networks.fsrcnn import FSRCNN
from models.SR.networks.imdn import IMDN
from models.SR.networks.srcnn import SRCNN

DEFAULT = "c2srcnn"
OPTIONS = ("width", "depth", "bicubic")  # arguments of networks that are options of `train.py`
ZOO = Zoo(
    {
        DEFAULT: Net,
        "srcnn": SRCNN,
        "fsrcnn": FSRCNN,
        "espcn": ESPCN,
        "edsr_baseline": EDSR,
        "imdn": IMDN,
        "ecbsr": ECBSR,
        "plainsr": PlainSR,
    },
    usual={"upscale_factor": 2},
    options=OPTIONS,
    libraries={"spandrel": from_spandrel},
    hidden=("colors",),
    bare=(DEFAULT,),
)


def build_network(arch: str = DEFAULT, **arguments: Any) -> nn.Module:
    """The network of a checkpoint's arguments; those of C2SRCNN are its constructor's own.

    Raises:
        UserError: see `Zoo`.
    """
    return Net(**arguments) if arch == DEFAULT else ZOO(arch, **arguments)

"""Super-resolution networks by name: what `--arch` may be, and a network from plain data.

`ZOO`.
"""

from engine.architectures.spandrel_networks import from_spandrel
from engine.architectures.zoo import Zoo
from models.C2SRCNN.model import Net
from models.SR.networks.edge import ECBSR, PlainSR
from models.SR.networks.edsr import EDSR
from models.SR.networks.espcn import ESPCN
from models.SR.networks.fsrcnn import FSRCNN
from models.SR.networks.imdn import IMDN
from models.SR.networks.srcnn import SRCNN

OPTIONS = ("width", "depth", "bicubic")  # arguments of networks that are options of `train.py`
ZOO = Zoo(
    {
        "c2srcnn": Net,
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
    bare=("c2srcnn",),
    unnamed=Net,
)

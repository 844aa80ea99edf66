"""Deblurring generators by name: what `--arch` may be, and a generator from plain data.

`ZOO`.
"""

from functools import partial

from engine.architectures.spandrel_networks import from_spandrel
from engine.architectures.zoo import Zoo
from models.Deblur.architectures.nafnet import NAFNet
from models.Deblur.architectures.unet import UNet
from models.Deblur.model import Generator

OPTIONS = ("ngf", "blocks", "norm", "halvings", "dropout")  # arguments of generators that are options of `train.py`
ZOO = Zoo(
    {
        "resnet": partial(Generator, kind="resnet"),
        "mobile": partial(Generator, kind="mobile"),
        "unet": UNet,
        "nafnet": NAFNet,
    },
    usual={},
    options=OPTIONS,
    libraries={"spandrel": from_spandrel},
    hidden=("kind",),
    bare=("resnet", "mobile"),
    unnamed=Generator,
)

"""The options that choose a network, and those of applications that restore images.

`ArchitectureConfig`, which an application with several networks extends, `CropConfig` and `SizeConfig`; their rules.
"""

from dataclasses import dataclass

from options.configs import LARGEST_SIDE, MOST, MOST_CHANNELS, MOST_SAMPLES, TrainConfig
from options.option import changed, option
from options.rules import Rule


@dataclass(frozen=True)
class ArchitectureConfig(TrainConfig):
    """Options of `train.py` for an application with several networks; it says the default of `arch`."""

    arch: str = option(
        "", "architecture: a name of --list-archs, or your own network as FILE.py:CLASS or MODULE:CLASS",
        metavar="NAME", own_code=True,
    )  # fmt: skip
    arch_args: str | None = option(
        None, "further arguments of its constructor, as in '{width: 32, depth: 8}'", metavar="YAML"
    )
    weights: str | None = option(None, "start from the weights in this file, as far as they fit", metavar="FILE")
    match: str = option(
        "name",
        "pair tensors of --weights by name, or those of equal shape in their order",
        choices=("name", "order"),
    )


@dataclass(frozen=True)
class CropConfig(ArchitectureConfig):
    """Options of `train.py` for an application that trains on random crops of images."""

    batchSize: int = option(8, "number of crops in a minibatch of one process", minimum=1, maximum=MOST)
    lr: float = changed(TrainConfig, "lr", 2e-3, "initial learning rate of Adam, where the schedule does not set it")
    patch_size: int = option(
        64, "side length of a training crop, in pixels, a multiple of 4", minimum=16, maximum=LARGEST_SIDE
    )
    samples: int = option(480, "number of training crops in an epoch", minimum=1, maximum=MOST_SAMPLES)


@dataclass(frozen=True)
class SizeConfig(CropConfig):
    """The same, of networks whose size is `--width` and `--depth`."""

    width: int | None = option(
        None, "number of channels of the network, where it takes one", minimum=1, maximum=MOST_CHANNELS
    )
    depth: int | None = option(
        None, "number of layers or blocks of the network, where it takes one", minimum=0, maximum=1000
    )


RULES: tuple[Rule[ArchitectureConfig], ...] = (
    Rule(("match",), lambda c: c.weights, "says how the file of --weights is read; name that too"),
)
MULTIPLE_OF_4: Rule[CropConfig] = Rule(
    ("patch_size",), lambda c: c.patch_size % 4 == 0, "must be a multiple of 4 pixels"
)

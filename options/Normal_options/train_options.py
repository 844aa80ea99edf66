"""Training options of super-resolution."""

from dataclasses import dataclass

from options.architecture import ARCH_HELP, RULES, ArchitectureConfig
from options.base_options import LARGEST_SIDE, MOST, MOST_CHANNELS, MOST_SAMPLES, TrainingOptions
from options.option import option


@dataclass(frozen=True)
class SRTrainConfig(ArchitectureConfig):
    """Options of `train.py --optform=SR`."""

    arch: str = option("c2srcnn", ARCH_HELP, metavar="NAME")
    width: int | None = option(
        None, "number of channels of the network, where it takes one", minimum=1, maximum=MOST_CHANNELS
    )
    depth: int | None = option(
        None, "number of layers or blocks of the network, where it takes one", minimum=0, maximum=1000
    )
    bicubic: bool = option(
        False, "add the network's output to bicubic up-sampling, where the paper's network learns the whole image"
    )
    upscale_factor: int = option(2, "upscale factor: how many times larger the output is", choices=(2, 3, 4))
    batchSize: int = option(8, "number of crops in a minibatch of one process", minimum=1, maximum=MOST)
    lr: float = option(3e-3, "initial learning rate of Adam, where the schedule does not set it", minimum=0.0)
    patch_size: int = option(
        64, "side length of a training crop, in pixels of the high resolution", minimum=16, maximum=LARGEST_SIDE
    )
    samples: int = option(1200, "number of training crops in an epoch", minimum=1, maximum=MOST_SAMPLES)


class TrainOptions(TrainingOptions[SRTrainConfig]):
    """The command line of `train.py` for super-resolution."""

    config = SRTrainConfig
    purpose = "Trains a super-resolution network under a schedule."
    rules = RULES

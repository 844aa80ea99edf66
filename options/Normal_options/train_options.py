"""Training options of super-resolution."""

from dataclasses import dataclass

from options.base_options import LARGEST_SIDE, MOST, MOST_SAMPLES, TrainConfig, TrainingOptions
from options.option import option


@dataclass(frozen=True)
class SRTrainConfig(TrainConfig):
    """Options of `train.py --optform=SR`."""

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

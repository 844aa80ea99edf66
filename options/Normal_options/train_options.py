"""Training options of super-resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.base_options import LARGEST_SIDE, MOST, MOST_SAMPLES, TrainConfig, parse_training
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


class TrainOptions:
    """The command line of `train.py` for super-resolution."""

    def parse(self, arguments: Sequence[str] | None = None) -> SRTrainConfig:
        """The options given (sys.argv's by default), the rest by default. A wrong one ends with exit code 2.

        Raises:
            UserError: see `parse_training`.
        """
        return parse_training(SRTrainConfig, "Trains a super-resolution network under a schedule.", arguments)

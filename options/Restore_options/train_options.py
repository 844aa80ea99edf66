"""Training options of restoration."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.architecture import ARCH_HELP, RULES, ArchitectureConfig
from options.base_options import LARGEST_SIDE, MOST, MOST_CHANNELS, MOST_SAMPLES, TrainingOptions
from options.option import option
from options.own_network import allow
from options.rules import Rule


@dataclass(frozen=True)
class RestoreTrainConfig(ArchitectureConfig):
    """Options of `train.py --optform=Restore`."""

    optform: str = option("Restore", "application to train", metavar="NAME")
    degradation: str = option(
        "noise:25",
        "what is done to sharp images: noise:SIGMA, jpeg:QUALITY, blur:SIGMA, downup:FACTOR, several joined by "
        "+, or your own FILE.py:FUNCTION", metavar="KIND:N",
    )  # fmt: skip
    traindata: str | None = option(
        None,
        "folder of sharp images (default: dataset/Restore/train if it exists, else the embedded photographs)",
        metavar="FOLDER",
    )
    arch: str = option("c2srcnn", ARCH_HELP, metavar="NAME")
    width: int | None = option(
        None, "number of channels of the network, where it takes one", minimum=1, maximum=MOST_CHANNELS
    )
    depth: int | None = option(
        None, "number of layers or blocks of the network, where it takes one", minimum=0, maximum=1000
    )
    batchSize: int = option(8, "number of crops in a minibatch of one process", minimum=1, maximum=MOST)
    patch_size: int = option(
        32, "side length of a training crop, in pixels, a multiple of 4", minimum=16, maximum=LARGEST_SIDE
    )
    samples: int = option(480, "number of training crops in an epoch", minimum=1, maximum=MOST_SAMPLES)
    lr: float = option(2e-3, "initial learning rate of Adam, where the schedule does not set it", minimum=0.0)


RESTORE_RULES: tuple[Rule[RestoreTrainConfig], ...] = (
    *RULES,
    Rule(("patch_size",), lambda c: c.patch_size % 4 == 0, "must be a multiple of 4 pixels"),
)


class TrainOptions(TrainingOptions[RestoreTrainConfig]):
    """The command line of `train.py` for restoration."""

    config = RestoreTrainConfig
    purpose = "Trains a restoration network under a schedule."
    rules = RESTORE_RULES

    def parse(self, arguments: Sequence[str] | None = None) -> RestoreTrainConfig:
        """See `TrainingOptions`; code of one's own that is named may be imported."""
        config = super().parse(arguments)
        allow(part.strip() for part in config.degradation.split("+"))
        return config

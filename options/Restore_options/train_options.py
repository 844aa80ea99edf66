"""Training options of restoration."""

from dataclasses import dataclass

from options.architecture import MULTIPLE_OF_4, RULES, SizeConfig
from options.base_options import TrainingOptions
from options.option import changed, option


@dataclass(frozen=True)
class RestoreTrainConfig(SizeConfig):
    """Options of `train.py --optform=Restore`."""

    optform: str = changed(SizeConfig, "optform", "Restore", "application to train")
    degradation: str = option(
        "noise:25",
        "what is done to sharp images: noise:SIGMA, jpeg:QUALITY, blur:SIGMA, downup:FACTOR, several joined by "
        "+, or your own FILE.py:FUNCTION", metavar="KIND:N", own_code=True,
    )  # fmt: skip
    traindata: str | None = changed(
        SizeConfig,
        "traindata",
        None,
        "folder of sharp images (default: dataset/Restore/train if it exists, else the embedded photographs)",
    )
    arch: str = changed(SizeConfig, "arch", "c2srcnn")
    patch_size: int = changed(SizeConfig, "patch_size", 32)


class TrainOptions(TrainingOptions[RestoreTrainConfig]):
    """The command line of `train.py` for restoration."""

    config = RestoreTrainConfig
    purpose = "Trains a restoration network under a schedule."
    rules = (*RULES, MULTIPLE_OF_4)

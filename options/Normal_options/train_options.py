"""Training options of super-resolution."""

from dataclasses import dataclass

from options.architecture import RULES, CropConfig, SizeConfig
from options.base_options import TrainingOptions
from options.option import changed, option


@dataclass(frozen=True)
class SRTrainConfig(SizeConfig):
    """Options of `train.py --optform=SR`."""

    arch: str = changed(SizeConfig, "arch", "c2srcnn")
    bicubic: bool = option(
        False, "add the network's output to bicubic up-sampling, where the paper's network learns the whole image"
    )
    upscale_factor: int = option(2, "upscale factor: how many times larger the output is", choices=(2, 3, 4))
    lr: float = changed(CropConfig, "lr", 3e-3)
    patch_size: int = changed(
        CropConfig, "patch_size", 64, "side length of a training crop, in pixels of the high resolution"
    )
    samples: int = changed(CropConfig, "samples", 1200)


class TrainOptions(TrainingOptions[SRTrainConfig]):
    """The command line of `train.py` for super-resolution."""

    config = SRTrainConfig
    purpose = "Trains a super-resolution network under a schedule."
    rules = RULES

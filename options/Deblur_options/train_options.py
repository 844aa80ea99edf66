"""Training options of deblurring, and the paper's as a preset."""

from dataclasses import dataclass

from options.architecture import MULTIPLE_OF_4, CropConfig
from options.architecture import RULES as ARCHITECTURE_RULES
from options.base_options import MOST_CHANNELS, TrainingOptions
from options.option import changed, option
from options.rules import Rule

GAN_LOSSES = ("lsgan", "wgan-gp", "vanilla")
SMALLEST_JUDGED = 24  # pixels: the discriminator halves a crop three times and its last layers take 2 x 2 off
PRESETS = {  # values of options that are not given themselves
    "paper": {  # Kupyn et al. 2018, section 5
        "norm": "instance", "halvings": 2, "ngf": 64, "blocks": 9, "dropout": 0.5, "ndf": 64, "patch_size": 256,
        "batchSize": 1, "lr": 1e-4, "gan": "wgan-gp", "content": "perceptual", "adversarial": 0.01,
        "blur_length": 60.0, "nEpochs": 300,
    },
}  # fmt: skip


@dataclass(frozen=True)
class DeblurTrainConfig(CropConfig):
    """Options of `train.py --optform=Deblur`."""

    optform: str = option("Deblur", "application to train", metavar="NAME")
    traindata: str | None = option(
        None,
        "folder of pairs (default: dataset/Deblur/train if it exists, else the embedded photographs)",
        metavar="FOLDER",
    )
    sharp_only: bool = option(False, "take the images of --traindata as sharp ones, and blur them when they are drawn")
    blur_length: float = option(
        40.0, "longest motion of the camera where blur is made, in pixels", minimum=2.0, maximum=256.0
    )
    batchSize: int = changed(CropConfig, "batchSize", 4)
    samples: int = changed(CropConfig, "samples", 400)
    lr: float = changed(
        CropConfig, "lr", 1e-3, "initial learning rate of both networks' Adam, where the schedule does not set it"
    )
    arch: str = changed(CropConfig, "arch", "resnet", former="netG")
    norm: str | None = option(None, "normalization in the generator (default: none)", choices=("none", "instance"))
    ngf: int | None = option(
        None, "number of channels of the generator's first layer (default: 12)", minimum=1, maximum=MOST_CHANNELS
    )
    halvings: int | None = option(
        None, "how often the generator halves the resolution (default: 1, of unet 2)", choices=(1, 2)
    )
    blocks: int | None = option(
        None, "number of residual blocks of the generator (default: 3)", minimum=0, maximum=1000
    )
    dropout: float | None = option(
        None, "dropout inside each block; 0.5 in the paper (default: 0)", minimum=0.0, below=1.0
    )
    ndf: int = option(8, "number of channels of the discriminator's first layer", minimum=1, maximum=MOST_CHANNELS)
    gan: str = option("lsgan", "kind of adversarial loss", choices=GAN_LOSSES)
    critic_steps: int | None = option(
        None, "number of updates of the discriminator for each one of the generator (default: 5 for wgan-gp, else 1)",
        minimum=1, maximum=1000,
    )  # fmt: skip
    adversarial: float = option(0.001, "weight of the adversarial loss beside the content loss", minimum=0.0)
    content: str = option("l1-ssim", "kind of content loss", choices=("l1-ssim", "perceptual"))
    vgg_weights: str | None = option(
        None, "file of torchvision's VGG19 weights, for --content=perceptual", metavar="FILE"
    )
    preset: str | None = option(
        None, "preset of options; paper: DeblurGAN's own sizes, losses and rates", choices=tuple(PRESETS)
    )


RULES: tuple[Rule[DeblurTrainConfig], ...] = (
    *ARCHITECTURE_RULES,
    MULTIPLE_OF_4,
    Rule(
        ("patch_size",),
        lambda c: c.patch_size >= SMALLEST_JUDGED or c.adversarial == 0,
        f"must be {SMALLEST_JUDGED} or more for the discriminator to judge a patch; --adversarial=0 leaves it out",
    ),
    Rule(
        ("preset",),
        lambda c: ":" not in c.arch,
        "has the sizes of DeblurGAN's generator; for another network give the options that you want of it",
    ),
    Rule(("sharp_only",), lambda c: c.traindata, "says what --traindata holds; name that too"),
    Rule(
        ("blur_length",),
        lambda c: c.traindata is None or c.sharp_only,
        "is of blur that is made, and --traindata holds blurred images; --sharp-only says that it does not",
    ),
    Rule(("vgg_weights",), lambda c: c.content == "perceptual", "is for --content=perceptual"),
    Rule(
        ("critic_steps", "gan", "ndf"),
        lambda c: c.adversarial > 0,
        "is about the discriminator, which --adversarial=0 leaves out",
    ),
)


class TrainOptions(TrainingOptions[DeblurTrainConfig]):
    """The command line of `train.py` for deblurring."""

    config = DeblurTrainConfig
    purpose = "Trains DeblurGAN under a schedule."
    rules = RULES
    presets = PRESETS

"""Training options of classification."""

from dataclasses import dataclass

from options.architecture import RULES as ARCHITECTURE_RULES
from options.architecture import ArchitectureConfig
from options.base_options import LARGEST_SIDE, MOST, MOST_CHANNELS, TrainingOptions
from options.option import option
from options.rules import Rule

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw")
INITIALISATIONS = ("own", "kaiming", "xavier", "orthogonal")


@dataclass(frozen=True)
class ClassifyTrainConfig(ArchitectureConfig):
    """Options of `train.py --optform=Classify`."""

    optform: str = option("Classify", "application to train", metavar="NAME")
    traindata: str | None = option(
        None,
        "training data: class folders, CIFAR-10's python batches, IDX files, HDF5 or .npz (default: the data set of "
        "--dataset)",
        metavar="PLACE",
    )
    dataset: str = option(
        "digits",
        "data set where --traindata is not given: digits (inside scikit-learn), fashion-mnist or torchvision:NAME",
        metavar="NAME",
    )
    download: bool = option(False, "let torchvision download the data set, including its test part")
    size: int = option(32, "height and width of the network's input, in pixels", minimum=8, maximum=LARGEST_SIDE)
    channels: int | None = option(
        None, "channels of the network's input: 1 (grey) or 3 (RGB) (default: as the images are)", choices=(1, 3)
    )
    mean_std: str | None = option(
        None,
        "normalization: auto, imagenet, cifar10, mnist, ... or M[,M,M]/S[,S,S] (default: the known set's, else auto)",
    )
    shift: float = option(
        0.06, "largest shift of a training image, as a fraction of its side", minimum=0.0, maximum=1.0
    )
    rotate: float = option(10.0, "largest rotation of a training image, in degrees", minimum=0.0, maximum=180.0)
    zoom: float = option(0.1, "largest change of a training image's size, as a fraction", minimum=0.0, below=1.0)
    flip: bool = option(False, "mirror every second training image")
    arch: str = option(
        "lenet5",
        "architecture: resnet20, ... (--list-archs), torchvision:NAME, timm:NAME, or your own as FILE.py:CLASS or "
        "MODULE:CLASS",
        metavar="NAME",
        own_code=True,
    )
    width_mult: float | None = option(
        None, "factor of the numbers of channels, for architectures that take one", above=0.0, maximum=100.0
    )
    base: int | None = option(None, "number of channels of studentnet's first layer", minimum=1, maximum=MOST_CHANNELS)
    dropout: float | None = option(
        None, "dropout before the classifier, for architectures that take one", minimum=0.0, below=1.0
    )
    exits: str | None = option(
        None, "early exits of the CIFAR ResNets: layer1, layer2 or layer1,layer2", metavar="STAGES"
    )
    exit_weight: float = option(0.3, "weight of each early exit's loss beside the network's own", minimum=0.0)
    init: str = option("own", "initialization of convolutions and linear layers", choices=INITIALISATIONS)
    pretrained: bool = option(
        False, "start from the library's trained weights (torchvision:, timm:), which it downloads"
    )
    optimizer: str = option("adam", "optimizer to train with", choices=OPTIMIZERS)
    momentum: float = option(0.9, "momentum of --optimizer=momentum and rmsprop", minimum=0.0, below=1.0)
    weight_decay: float = option(1e-4, "weight decay of weights; norms and biases have none", minimum=0.0)
    decay_all: bool = option(False, "apply weight decay to norms and biases too")
    label_smoothing: float = option(
        0.0, "fraction of the target that is spread over all classes", minimum=0.0, below=1.0
    )
    batchSize: int = option(64, "number of images in a minibatch of one process", minimum=1, maximum=MOST)
    lr: float = option(2e-3, "initial learning rate, where the schedule does not set it", minimum=0.0)


def _of_a_library(config: ClassifyTrainConfig) -> bool:
    return config.arch.startswith(("torchvision:", "timm:"))


RULES: tuple[Rule[ClassifyTrainConfig], ...] = (
    *ARCHITECTURE_RULES,
    Rule(("dataset",), lambda c: c.traindata is None, "names a data set, and --traindata another; give one"),
    Rule(
        ("download",),
        lambda c: c.dataset.startswith("torchvision:") and c.traindata is None,
        "fetches the data set of --dataset=torchvision:NAME; there is nothing else to fetch",
    ),
    Rule(("exit_weight",), lambda c: c.exits, "weighs the losses of early exits; name them with --exits"),
    Rule(("pretrained",), lambda c: c.weights is None, "and --weights are two ways to start; give one"),
    Rule(
        ("pretrained",), _of_a_library, "is for --arch=torchvision:NAME and timm:NAME; others have no trained weights"
    ),
    Rule(
        ("momentum",),
        lambda c: c.optimizer in ("momentum", "rmsprop"),
        "does not apply to this optimizer; it requires --optimizer=momentum and --optimizer=rmsprop",
    ),
    Rule(("decay_all",), lambda c: c.weight_decay > 0, "says what decays, and --weight-decay=0 lets nothing"),
)


class TrainOptions(TrainingOptions[ClassifyTrainConfig]):
    """The command line of `train.py` for classification."""

    config = ClassifyTrainConfig
    purpose = "Trains a classifier under a schedule."
    rules = RULES

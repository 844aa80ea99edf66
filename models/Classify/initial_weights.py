"""How a network starts: `--init`, `--pretrained`, `--weights`.

Which of the three.
"""

import logging

from torch import Tensor, nn

from apputils.checkpoints.weight_matching import match_weights
from compress.errors import UserError
from engine.architectures.chosen import start_from_file
from options.Classify_options.train_options import ClassifyTrainConfig

logger = logging.getLogger("run")

MAKERS = {
    "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


def start(model: nn.Module, config: ClassifyTrainConfig) -> None:
    """Sets a new network's weights as the options say; what was loaded and what was not is logged.

    Raises:
        UserError: weights cannot be had, or none of them fits.
    """
    initialise(model, config.init)
    if config.pretrained:
        logger.info("%s", match_weights(model, library_weights(config.arch)).story("the library's trained weights"))
    else:
        start_from_file(model, config)


def initialise(model: nn.Module, how: str) -> None:
    """Fills convolutions and linear layers anew, biases with zeros; `own` leaves what the network made itself."""
    if how == "own":
        return
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            MAKERS[how](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def library_weights(arch: str) -> dict[str, Tensor]:
    """The trained weights that a library has for `torchvision:NAME` or `timm:NAME`, downloaded unless they are there.

    Raises:
        UserError: they cannot be had.
    """
    library, _, name = arch.partition(":")
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            return dict(get_model_weights(name).DEFAULT.get_state_dict(progress=True))
        if library == "timm":
            import timm

            return dict(timm.create_model(name, pretrained=True).state_dict())
    except ImportError as e:
        raise UserError(f"{arch} needs the package {library}, which is not installed: pip install {library}") from e
    except (OSError, RuntimeError, ValueError, AttributeError) as e:
        raise UserError(f"the trained weights of {arch} cannot be fetched: {e}") from e
    raise UserError(f"only torchvision:NAME and timm:NAME have trained weights; {arch} has none")


def library_classes(arch: str) -> int:
    """The number of classes that those weights are for."""
    library, _, name = arch.partition(":")
    if library == "timm":
        import timm

        return int(timm.create_model(name, pretrained=False).num_classes)
    from torchvision.models import get_model_weights

    return len(get_model_weights(name).DEFAULT.meta["categories"])

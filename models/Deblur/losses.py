"""Losses of DeblurGAN: adversarial ones by name, and content.

Functions of tensors, the perceptual network.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from apputils.checkpoints import differences
from apputils.checkpoints.file import load_weights
from apputils.checkpoints.weight_checks import by_own_names, check_weights
from compress.errors import UserError

logger = logging.getLogger("run")
GRADIENT_PENALTY = 10.0  # Gulrajani et al. 2017, arXiv 1704.00028, eq. 3
SSIM_WEIGHT = 0.1  # of 1 - SSIM beside the mean absolute error
WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels (Wang et al. 2004)
VGG_LAYERS = 15  # of torchvision's vgg19().features: through conv3_3
VGG_FILE = "vgg19-dcbb9e9d.pth"  # what torchvision keeps in its cache


class Adversarial(NamedTuple):
    """One adversarial loss, of scores (N, 1, h, w).

    Attributes:
        critic: scores of sharp and of restored images -> the discriminator's loss.
        generator: scores of restored images -> the generator's loss.
        critic_steps: discriminator updates for each of the generator, unless the options say otherwise.
        penalised: whether the gradient penalty is added to the discriminator's loss.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    critic_steps: int = 1
    penalised: bool = False


ADVERSARIAL = {
    # Mao et al. 2017, arXiv 1611.04076, eq. 2 with a = 0, b = c = 1
    "lsgan": Adversarial(
        lambda sharp, restored: ((sharp - 1) ** 2).mean() / 2 + (restored**2).mean() / 2,
        lambda restored: ((restored - 1) ** 2).mean() / 2,
    ),
    # Arjovsky et al. 2017, arXiv 1701.07875, with Gulrajani's penalty
    "wgan-gp": Adversarial(
        lambda sharp, restored: restored.mean() - sharp.mean(), lambda restored: -restored.mean(), 5, True
    ),
    # Goodfellow et al. 2014, arXiv 1406.2661, the generator's loss not saturating
    "vanilla": Adversarial(
        lambda sharp, restored: (functional.softplus(-sharp).mean() + functional.softplus(restored).mean()) / 2,
        lambda restored: functional.softplus(-restored).mean(),
    ),
}


def gradient_penalty(critic: nn.Module, sharp: Tensor, restored: Tensor) -> Tensor:
    """Mean of (|gradient of the critic| - 1)^2 at random points between each sharp and restored image, a scalar."""
    share = torch.rand(len(sharp), 1, 1, 1, device=sharp.device)
    between = (share * sharp + (1 - share) * restored).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of images (N, C, H, W) in [0, 1], differentiable; a scalar in [-1, 1].

    Source: Wang et al. 2004, eq. 13, with a Gaussian window; only where the window lies inside the image.
    """
    channels = first.shape[1]
    place = torch.arange(WINDOW, device=first.device, dtype=first.dtype) - WINDOW // 2
    taps = torch.exp(-(place**2) / (2 * SIGMA**2))
    # The Gaussian is separable: a column and a row of taps instead
    # of a square, and all five maps in one convolution each.
    taps = (taps / taps.sum()).repeat(5 * channels, 1)
    maps = torch.cat([first, second, first * first, second * second, first * second], 1)
    maps = functional.conv2d(maps, taps[:, None, :, None], groups=5 * channels)
    maps = functional.conv2d(maps, taps[:, None, None, :], groups=5 * channels)
    mean1, mean2, square1, square2, product = maps.chunk(5, 1)
    # Cov(x, y) = E xy - E x E y, with E the Gaussian mean around each pixel.
    covariance, variances = product - mean1 * mean2, square1 + square2 - mean1**2 - mean2**2
    low, high = 0.01**2, 0.03**2
    return (
        (2 * mean1 * mean2 + low) * (2 * covariance + high) / ((mean1**2 + mean2**2 + low) * (variances + high))
    ).mean()


def l1_ssim(restored: Tensor, sharp: Tensor) -> Tensor:
    """Mean absolute error, and a tenth of 1 - SSIM; a scalar."""
    return functional.l1_loss(restored, sharp) + SSIM_WEIGHT * (1 - ssim(restored, sharp))


class Perceptual(nn.Module):
    """Mean squared difference of VGG19's features conv3_3, of RGB (N, 3, H, W) in [0, 1]; a scalar.

    Source: Johnson et al. 2016, arXiv 1603.08155; the layer is DeblurGAN's (section 4.2).

    Args:
        features: the first layers of `torchvision.models.vgg19().features`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features((sharp - self.mean) / self.std)
        return functional.mse_loss(self.features((restored - self.mean) / self.std), wanted)


def effective(content: Callable[[Tensor, Tensor], Tensor]) -> str:
    """What `--content` would call a content loss, which may not be what it was asked for."""
    return "perceptual" if isinstance(content, Perceptual) else "l1-ssim"


def content_loss(name: str, vgg_weights: str | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The content loss of `--content`; without VGG19's weights a line says so and `l1_ssim` takes its place.

    Raises:
        UserError: the file holds no weights of VGG19.
    """
    if name != "perceptual":
        return l1_ssim
    path = Path(vgg_weights) if vgg_weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if vgg_weights is None and not path.is_file():
        logger.warning(
            "VGG19's weights are not there (%s), so the content loss is L1 + SSIM; --vgg-weights FILE names them", path
        )
        return l1_ssim
    return Perceptual(_vgg(path)).to(device)


def _vgg(path: Path) -> nn.Sequential:
    import torchvision  # takes a second, and only this loss needs it

    with torch.device("meta"):  # the whole network has 144 million parameters, of which these layers are 1 %
        features: nn.Sequential = torchvision.models.vgg19(weights=None).features[:VGG_LAYERS]
    wanted = {f"features.{name}": tensor.shape for name, tensor in features.state_dict().items()}
    weights = load_weights(path)
    try:
        there = by_own_names(weights, wanted)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    found = differences.of_shapes(wanted, {name: tensor.shape for name, tensor in there.items() if name in wanted})
    if found:
        raise UserError(f"{path} holds no weights of torchvision's VGG19: {'; '.join(found)}")
    used = {name: there[name] for name in wanted}
    try:
        check_weights(used, {name: torch.zeros(()).expand(tensor.shape) for name, tensor in used.items()})
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    own = {name.removeprefix("features."): tensor.float() for name, tensor in used.items()}
    features.load_state_dict(own, assign=True)
    return features

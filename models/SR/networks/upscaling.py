"""What super-resolution networks share: bicubic up-sampling, the residual to it, the pixel shuffle's convolution."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.C2SRCNN.model import bicubic_kernel, enlarged

START = 0.01  # factor of the last layer's weights where bicubic is added: training starts at bicubic's quality


class Bicubic(nn.Module):
    """RGB (N, 3, h, w) -> (N, 3, h * scale, w * scale), as Pillow's bicubic does inside the image.

    Args:
        scale: >= 1.
    """

    kernel: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("kernel", bicubic_kernel(scale), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        return functional.pixel_shuffle(enlarged(low, self.kernel), self.scale)


class SRNetwork(nn.Module):
    """A network that is `detail`, or bicubic up-sampling plus `detail`.

    Args:
        upscale_factor: >= 1.
        bicubic: whether bicubic up-sampling is added to what `detail` gives.

    Attributes:
        arguments: the constructor's arguments; set by `Zoo`.
    """

    def __init__(self, upscale_factor: int, bicubic: bool) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor
        self.bicubic = Bicubic(upscale_factor) if bicubic else None

    def forward(self, low: Tensor) -> Tensor:
        detail = self.detail(low)
        return detail if self.bicubic is None else detail + self.bicubic(low)

    def detail(self, low: Tensor) -> Tensor:
        """The learned part of the output, (N, 3, h * scale, w * scale)."""
        raise NotImplementedError

    def quiet(self, last: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Makes the last layer's weights small where bicubic is added to them."""
        if self.bicubic is not None:
            with torch.no_grad():
                last.weight.mul_(START)
                if last.bias is not None:
                    last.bias.zero_()


def conv(before: int, after: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(before, after, size, padding=size // 2)


def chain(count: int, make: Callable[[], nn.Module]) -> nn.Sequential:
    """That many modules, one after the other."""
    return nn.Sequential(*(make() for _ in range(count)))

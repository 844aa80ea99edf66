"""C2SRCNN: an FSRCNN-like super-resolution network that is quick on a CPU.

Here: the network. Not here: loss and training (`solver.py`). Called by the solver, the tester and
whoever wants an example network.

Differences from FSRCNN (Dong et al., arXiv 1608.00367):
 - it works on RGB, and predicts what is missing from the bicubic up-sampling;
 - it ends in a convolution and a PixelShuffle instead of a transposed convolution;
 - ReLU instead of PReLU, whose slope's gradient is slow on a CPU.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

BICUBIC_A = -0.5  # Pillow's


class Net(nn.Module):
    """Low resolution RGB (N, 3, h, w) in [0, 1] -> (N, 3, h * scale, w * scale), not clamped.

    Args:
        upscale_factor: scale, >= 1.
        features: channels of `first_part` and of `mid_part`'s end.
        shrunk: channels inside `mid_part`.
    """

    def __init__(self, upscale_factor: int = 2, features: int = 48, shrunk: int = 24) -> None:
        super().__init__()
        self.arguments = {"upscale_factor": upscale_factor, "features": features, "shrunk": shrunk}
        self.upscale_factor = upscale_factor
        self.first_part = nn.Sequential(_conv(3, features, 3), nn.ReLU())
        self.mid_part = nn.Sequential(OrderedDict(_mid_layers(features, shrunk)))
        self.last_part = nn.Sequential(_conv(features, 3 * upscale_factor**2, 3))
        nn.init.normal_(self.last_part[0].weight, std=1e-3)
        self.register_buffer("bicubic", bicubic_kernel(upscale_factor), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        detail = self.last_part(self.mid_part(self.first_part(low - 0.5)))
        padded = functional.pad(low, (2, 2, 2, 2), mode="replicate")
        smooth = functional.conv2d(padded, self.bicubic, groups=3)
        return functional.pixel_shuffle(detail + smooth, self.upscale_factor)


def _mid_layers(features: int, shrunk: int):
    yield "0", nn.Sequential(_conv(features, shrunk, 1), nn.ReLU())
    for position in range(1, 9, 2):
        yield str(position), _conv(shrunk, shrunk, 3)
        yield str(position + 1), nn.ReLU()
    yield "9", nn.Sequential(_conv(shrunk, features, 1), nn.ReLU())


def _conv(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


def bicubic_kernel(scale: int) -> Tensor:
    phase = torch.arange(scale, dtype=torch.float64)
    centre = (phase + 0.5) / scale - 0.5
    taps = _cubic(torch.arange(-2.0, 3.0, dtype=torch.float64)[None] - centre[:, None])
    kernel = torch.einsum("ay,bx->abyx", taps, taps).reshape(scale**2, 1, 5, 5)
    return kernel.repeat(3, 1, 1, 1).float()


def _cubic(distance: Tensor, a: float = BICUBIC_A) -> Tensor:
    x = distance.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

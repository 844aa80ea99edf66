"""C2SRCNN: an FSRCNN-like super-resolution network that is quick on a CPU.

The network. Called by the solver and the tester, and an example network for others.

What differs from FSRCNN (Dong et al., arXiv 1608.00367):
 - it works on RGB and predicts only what the bicubic up-sampling lacks, so it starts as good as bicubic;
 - it ends in a 3x3 convolution and a PixelShuffle instead of a 9x9 transposed convolution, with which a
   training step takes 1.3 times as long and a forward pass 1.5 times (medians on two busy cores,
   benchmarks/sr_tail.py; single rounds scatter from 0.95 to 3.5);
 - ReLU instead of PReLU, which makes a training step half as long again;
 - fewer channels before and behind `mid_part` and more inside it, where CPUs reach their speed.
"""

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

_CUBIC_A = -0.5  # Pillow's bicubic; OpenCV's and PyTorch's plain one have -0.75


class Net(nn.Module):
    """Low resolution RGB (N, 3, h, w) in [0, 1] -> (N, 3, h * scale, w * scale), not clamped.

    The bicubic part is a fixed grouped convolution rather than `interpolate`: an ordinary operation for
    every exporter and graph tool, its a = -0.5 is the baseline's, and it is added before the shuffle,
    at low resolution.

    Args:
        upscale_factor: scale, >= 1.
        features: channels of `first_part` and of the end of `mid_part`.
        shrunk: channels inside `mid_part`.

    Attributes:
        arguments: the constructor's arguments; `Net(**arguments)` has the same structure.
    """

    bicubic: Tensor

    def __init__(self, upscale_factor: int = 2, features: int = 32, shrunk: int = 32) -> None:
        super().__init__()
        self.arguments = {"upscale_factor": upscale_factor, "features": features, "shrunk": shrunk}
        self.upscale_factor = upscale_factor
        self.first_part = nn.Sequential(_conv(3, features, 3), nn.ReLU())
        self.mid_part = nn.Sequential(OrderedDict(_mid_layers(features, shrunk)))
        self.last_part = nn.Sequential(_conv(features, 3 * upscale_factor**2, 3, spread=0.01))
        self.register_buffer("bicubic", bicubic_kernel(upscale_factor), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        detail = self.last_part(self.mid_part(self.first_part(low - 0.5)))
        return functional.pixel_shuffle(detail + enlarged(low, self.bicubic), self.upscale_factor)


def bicubic_kernel(scale: int) -> Tensor:
    """Bicubic up-sampling as a convolution by 3 groups, (3 * scale^2, 1, 5, 5).

    Channel c * scale^2 + y * scale + x is colour c of the pixel (y, x) of each scale x scale block, the order
    of PixelShuffle. Four of the five taps of a row are used, which four depends on the pixel.
    Inside the image the result is Pillow's before it rounds; at the border, Pillow leaves out
    what lies outside, while this expects repeated border pixels.
    """
    centre = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = _cubic(torch.arange(-2, 3, dtype=torch.float64) - centre[:, None])
    kernel = torch.einsum("ys,xt->yxst", taps, taps).reshape(scale**2, 1, 5, 5)
    return kernel.repeat(3, 1, 1, 1).float()


def enlarged(low: Tensor, kernel: Tensor) -> Tensor:
    """Bicubic up-sampling in front of the pixel shuffle, (N, 3, h, w) -> (N, 3 * scale^2, h, w).

    Args:
        low: images; repeated at the border.
        kernel: of `bicubic_kernel`.
    """
    padded = functional.pad(low, (2, 2, 2, 2), mode="replicate")
    device = kernel.device.type  # low may be a proxy of torch.fx, which knows no device
    if torch.is_autocast_enabled(device):
        # bfloat16 has 8 bits: a pixel's half grey level would be lost, and the network would learn to put it back.
        with torch.autocast(device, enabled=False):
            return functional.conv2d(padded, kernel, groups=3)
    return functional.conv2d(padded, kernel, groups=3)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981, eq. 15 for a = -0.5) at a distance in pixels."""
    x, a = distance.abs(), _CUBIC_A
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _mid_layers(features: int, shrunk: int) -> Iterator[tuple[str, nn.Module]]:
    """Shrink, four 3x3 convolutions, expand: the numbering is what schedules refer to."""
    yield "0", nn.Sequential(_conv(features, shrunk, 1), nn.ReLU())
    for position in (1, 3, 5, 7):
        yield str(position), _conv(shrunk, shrunk, 3)
        yield str(position + 1), nn.ReLU()
    yield "9", nn.Sequential(_conv(shrunk, features, 1), nn.ReLU())


def _conv(channels_in: int, channels_out: int, size: int, spread: float = 1.0) -> nn.Conv2d:
    """Size-keeping convolution with He's initialization, times `spread`, and zero bias."""
    conv = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    conv.weight.data.mul_(spread)
    nn.init.constant_(conv.get_parameter("bias"), 0)
    return conv

"""Small networks and hand-made quantizers for the export tests."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.quantization.fake_quant import ActivationQuantizer, WeightQuantizer
from compress.quantization.grid import Grid
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.layers import LAYERS, quantized


class UNet(nn.Module):
    """Two levels: max pooling down, transposed convolutions up, skips by concatenation."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = _twice(3, width), _twice(width, 2 * width)
        self.middle = _twice(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.dec2 = _twice(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.dec1 = _twice(2 * width, width)
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        up = self.up2(self.middle(functional.max_pool2d(two, 2)))
        up = self.up1(self.dec2(torch.cat((up, two), 1)))
        return self.last(self.dec1(torch.cat((up, one), 1)))


class Generator(nn.Module):
    """DeblurGAN's generator in small: reflection padding, instance norm, a residual block, transposed convolutions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU())
        self.conv1, self.conv2 = nn.Conv2d(2 * width, 2 * width, 3), nn.Conv2d(2 * width, 2 * width, 3)
        self.pad, self.norm, self.relu = nn.ReflectionPad2d(1), nn.InstanceNorm2d(2 * width), nn.ReLU()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(width), nn.ReLU()
        )
        self.tail = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.head(x))
        y = y + self.norm(self.conv2(self.pad(self.relu(self.norm(self.conv1(self.pad(y)))))))
        return torch.clamp(x + self.tail(self.up(y)), -1, 1)


class Upscaler(nn.Module):
    """PReLU, PixelShuffle and a strided transposed convolution, as super-resolution networks have."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)
        self.second, self.relu = nn.Conv2d(width, 4 * width, 3, padding=1), nn.ReLU()
        self.shuffle, self.last = nn.PixelShuffle(2), nn.ConvTranspose2d(width, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shuffle(self.relu(self.second(self.act(self.first(x))))))


def _twice(channels_in: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip


def lively(model: nn.Module) -> nn.Module:
    """BatchNorms with statistics and gains that are not the trivial ones, some gains negative; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::3] *= -1
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class MinMaxWeight(WeightQuantizer):
    """Symmetric, by the largest value of each channel (or of all), to [-(2^(bits-1) - 1), 2^(bits-1) - 1]."""

    def __init__(self, bits: int = 8, axis: int | None = 0) -> None:
        super().__init__(bits)
        self.axis, self.made = axis, None

    def grid(self) -> Grid | None:
        return self.made

    def forward(self, x: Tensor) -> Tensor:
        high = 2 ** (self.bits - 1) - 1
        others = [i for i in range(x.dim()) if i != self.axis]
        scale = (x.abs().amax(others) if self.axis is not None else x.abs().max()) / high
        self.made = Grid(scale.detach(), torch.zeros_like(scale, dtype=torch.int64), -high, high, self.axis)
        return self.made.values(self.made.integers(x))


class DorefaWeight(WeightQuantizer):
    """DoReFa's grid: odd integers over 2^bits - 1; what is exactly 0 stays 0."""

    def grid(self) -> Grid:
        levels = 2**self.bits - 1
        return Grid(torch.tensor(1 / levels), torch.tensor(0), -levels, levels)

    def forward(self, x: Tensor) -> Tensor:
        levels = 2**self.bits - 1
        t = torch.tanh(x)
        unit = t / (2 * t.abs().max()) + 0.5
        return torch.where(x == 0, 0.0, (2 * torch.round(unit * levels) - levels) / levels)


class MinMaxActivation(ActivationQuantizer):
    """Over the range of the first batch it sees, 0 included."""

    def __init__(self, bits: int = 8, signed: bool = True) -> None:
        super().__init__(bits, signed)
        self.made: Grid | None = None

    def grid(self) -> Grid | None:
        return self.made

    def forward(self, x: Tensor) -> Tensor:
        if self.made is None:
            low, high = min(float(x.min()), 0.0) if self.signed else 0.0, max(float(x.max()), 1e-3)
            scale = (high - low) / (2**self.bits - 1)
            self.made = Grid(torch.tensor(scale), torch.tensor(round(-low / scale)), 0, 2**self.bits - 1)
        return self.made.values(self.made.integers(x))


class RoundedAdd(nn.Module):
    """A quantized output for a layer that is followed by something else than an activation."""

    def __init__(self, layer: nn.Module, bits: int = 8) -> None:
        super().__init__()
        self.layer, self.output_quantizer = layer, MinMaxActivation(bits)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_quantizer(self.layer(x))


def quantize(
    model: nn.Module,
    inputs: Tensor,
    weight: type[WeightQuantizer] = MinMaxWeight,
    bits: int = 8,
    act_bits: int = 8,
    outputs: tuple[str, ...] = (),
) -> nn.Module:
    """Quantizes every layer and activation in place and calibrates on a batch; inputs of the first layer are rounded.

    Args:
        model: a float network.
        inputs: a batch.
        weight: the weight quantizer's class.
        bits: of weights.
        act_bits: of activations.
        outputs: names of layers whose output is rounded too.
    """
    named = {name: each for name, each in model.named_modules() if type(each) in LAYERS or type(each) in ACTIVATIONS}
    first = True
    for name, module in named.items():
        parent, _, own = name.rpartition(".")
        if type(module) in ACTIVATIONS:
            made = quantized(module, {"output_quantizer": MinMaxActivation(act_bits, not isinstance(module, nn.ReLU))})
        else:
            pieces = {"weight_quantizer": weight(bits)}
            if isinstance(module, nn.ConvTranspose2d) and weight is MinMaxWeight:
                pieces = {"weight_quantizer": MinMaxWeight(bits, 1)}
            if first:
                pieces["input_quantizer"], first = MinMaxActivation(8), False
            made = quantized(module, pieces)
            made = RoundedAdd(made) if name in outputs else made
        model.get_submodule(parent).register_module(own, made)
    model.eval()
    with torch.no_grad():
        model(inputs)
    return model

"""Deblurring generators: the sizes that their papers state, any image size, the former name of the option."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.macs.count import count_macs
from engine.architectures.zoo import arguments_of
from models.Deblur.architectures.nafnet import NAFNet
from models.Deblur.networks import build_networks
from models.Deblur.solver import DeblurTrainer
from models.Deblur.zoo import ZOO
from options.Deblur_options.train_options import TrainOptions


@pytest.mark.parametrize("arch", ZOO.architectures)
def test_a_generator_comes_back_from_its_arguments(arch: str) -> None:
    network = ZOO(arch, settings={"ngf": 4}).eval()
    again = build_networks(**arguments_of(network)).eval()
    again.load_state_dict(network.state_dict())
    size = (13, 18) if arch in ("unet", "nafnet") else (12, 20)  # the paper's takes multiples of 4
    image = torch.rand(2, 3, *size)
    assert torch.equal(network(image), again(image))
    assert network(image).shape == image.shape
    assert (network(image) - image).abs().mean() < 0.1  # training starts at the input's quality
    both = build_networks(netG=arguments_of(network), netD={"ndf": 2})
    assert arguments_of(both)["netG"] == arguments_of(network)


def test_nafnet_has_the_size_of_the_paper() -> None:
    """Chen et al. 2022: 16 GMACs for 256 x 256 pixels at width 32 and 36 blocks; the large one has 67.9 M."""

    def network(width: int, encoder: tuple[int, ...], middle: int, decoder: tuple[int, ...]) -> nn.Module:
        with torch.device("meta"):
            return NAFNet(width, encoder, middle, decoder)

    large = network(64, (1, 1, 1, 28), 1, (1, 1, 1, 1))
    assert round(sum(each.numel() for each in large.parameters()) / 1e6, 1) == 67.9
    assert round(_macs_by_hand(32, (2, 2, 4, 8), 12, (2, 2, 2, 2), 256) / 1e9) == 16
    small = NAFNet(4, (1, 2), 1, (2, 1))
    assert count_macs(small, (torch.zeros(1, 3, 32, 32),)).total == _macs_by_hand(4, (1, 2), 1, (2, 1), 32)


def _macs_by_hand(width: int, encoder: tuple[int, ...], middle: int, decoder: tuple[int, ...], side: int) -> int:
    """Multiply-accumulates of the convolutions, from the figures of the paper."""
    pixels, total = side**2, 0

    def block(c: int, at: int) -> int:
        return at * (2 * c * c + 2 * c * 9 + c * c + 2 * c * c + c * c) + c * c  # two 1 x 1 up, one depthwise, two down

    levels = [(width * 2**i, pixels // 4**i) for i in range(len(encoder) + 1)]
    total += 2 * pixels * 9 * 3 * width
    for i, count in enumerate(encoder):
        c, at = levels[i]
        total += count * block(c, at) + levels[i + 1][1] * 4 * c * 2 * c
    c, at = levels[-1]
    total += middle * block(c, at)
    for count, (c, at) in zip(decoder, levels[-2::-1], strict=True):
        total += at // 4 * 2 * c * 4 * c + count * block(c, at)
    return total


def test_the_option_keeps_its_former_name() -> None:
    assert TrainOptions().parse(["--optform=Deblur", "--netG=mobile"]).arch == "mobile"
    assert TrainOptions().parse(["--optform=Deblur"]).arch == "resnet"


def test_options_that_a_generator_does_not_take_are_refused() -> None:
    config = TrainOptions().parse(["--optform=Deblur", "--arch=nafnet", "--norm=instance"])
    with pytest.raises(UserError, match="--norm does not apply to --arch=nafnet; it takes --ngf, encoder"):
        DeblurTrainer(config, None, None).build()  # type: ignore[arg-type]

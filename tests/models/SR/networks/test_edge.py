"""ECBSR and PlainSR: sizes, parameter counts, and that one becomes the other."""

import pytest
import torch

from compress.fusing.blocks import exchange, fusions_of
from models.SR.networks.edge import ECBSR, PlainSR


def _parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("depth", "width"), [(4, 8), (4, 16), (10, 16), (10, 32)])
def test_number_of_parameters(depth, width):
    """Of luminance alone as in the paper's table, counted layer by layer."""
    first = 9 * width + width + width  # convolution, bias, PReLU
    middle = depth * (9 * width * width + width + width)
    last = 9 * width * 4 + 4
    assert _parameters(PlainSR(2, width, depth, colors=1)) == first + middle + last
    wide = ECBSR(2, width, depth, colors=1)
    exchange(wide, fusions_of(wide).values())
    assert _parameters(wide) == first + middle + last


@pytest.mark.parametrize("kind", [ECBSR, PlainSR])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_size_of_the_output_and_arguments(kind, scale):
    net = kind(scale, width=4, depth=1)
    assert net(torch.rand(2, 3, 6, 5)).shape == (2, 3, 6 * scale, 5 * scale)
    assert net.arguments == {"upscale_factor": scale, "width": 4, "depth": 1, "relu": False, "colors": 3}
    assert kind(**net.arguments).state_dict().keys() == net.state_dict().keys()


def test_a_fused_ecbsr_is_a_plain_network():
    torch.manual_seed(0)
    net = ECBSR(2, width=8, depth=2)
    low = torch.rand(1, 3, 9, 8)
    expected = net(low)
    exchange(net, fusions_of(net).values())
    plain = PlainSR(**net.arguments)
    plain.load_state_dict(net.state_dict())
    assert (plain(low) - expected).abs().max() <= 1e-5
    assert torch.equal(plain(low), net(low))

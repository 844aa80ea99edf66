"""The network: names, shapes, its bicubic start, and the bicubic kernel against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.C2SRCNN.model import Net, bicubic_kernel, enlarged

PRUNABLE = [
    "mid_part.0.0.weight",
    "mid_part.1.weight",
    "mid_part.3.weight",
    "mid_part.5.weight",
    "mid_part.7.weight",
    "mid_part.9.0.weight",
]


def test_the_weights_that_schedules_name() -> None:
    names = [name for name, weight in Net().mid_part.named_parameters("mid_part") if weight.dim() == 4]
    assert names == PRUNABLE


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_output_size(scale: int) -> None:
    assert Net(scale, 8, 4)(torch.rand(2, 3, 7, 9)).shape == (2, 3, 7 * scale, 9 * scale)


def test_arguments_rebuild_the_network() -> None:
    net = Net(upscale_factor=3, features=8, shrunk=4)
    again = Net(**net.arguments)
    again.load_state_dict(net.state_dict())
    low = torch.rand(1, 3, 6, 6)
    assert torch.equal(again(low), net(low))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_detail_it_is_pillows_bicubic(scale: int) -> None:
    """Float images, one per channel: Pillow does not round those. Its border differs, 2 pixels of `low`."""
    low = np.random.default_rng(scale).random((3, 12, 15), dtype=np.float32)
    size = (15 * scale, 12 * scale)
    pillow = np.stack([Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in low])
    net = Net(scale, 8, 4)
    torch.nn.init.zeros_(net.last_part[0].weight)
    with torch.no_grad():
        ours = net(torch.from_numpy(low)[None])[0].numpy()
    border = 2 * scale
    inner = (slice(None), slice(border, -border), slice(border, -border))
    assert np.abs(ours - pillow)[inner].max() < 2e-6


def test_bicubic_keeps_its_digits_in_bfloat16() -> None:
    """Its values in [0, 1] differ from float64's by less than a thousandth of a grey level, not by half of one."""
    low, kernel = torch.rand(1, 3, 9, 11), bicubic_kernel(2)
    with torch.autocast("cpu", torch.bfloat16):
        smooth = enlarged(low, kernel)
    exact = enlarged(low.double(), kernel.double())
    assert smooth.dtype == torch.float32
    assert (smooth - exact).abs().max() < 1e-6


def test_torch_fx_traces_it() -> None:
    net, low = Net(2), torch.rand(1, 3, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(net)(low), net(low))


def test_it_starts_near_bicubic() -> None:
    torch.manual_seed(0)
    net = Net()
    low = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        started = net(low)
        torch.nn.init.zeros_(net.last_part[0].weight)
        assert (started - net(low)).abs().max() < 0.1


def test_bicubic_weights_sum_to_one() -> None:
    for scale in (2, 3, 4):
        kernel = bicubic_kernel(scale)
        assert kernel.shape == (3 * scale**2, 1, 5, 5)
        assert torch.allclose(kernel.sum((1, 2, 3)), torch.ones(3 * scale**2), atol=1e-6)


def test_the_kernel_is_not_trained_nor_saved() -> None:
    net = Net()
    assert "bicubic" not in dict(net.named_parameters())
    assert "bicubic" not in net.state_dict()

"""RepVGGBlock and EdgeBlock: each branch computed by itself, and what they fuse to."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import EdgeBlock, RepVGGBlock


def _by_branches(block: EdgeBlock, x: Tensor) -> Tensor:
    """The paper's forward pass: every branch run as it is drawn there."""
    total = block.conv(x)
    hidden = block.expand(x)
    border = block.expand.bias.view(1, -1, 1, 1)  # the paper pads by what zeros give
    padded = functional.pad(hidden - border, (1, 1, 1, 1)) + border
    total = total + functional.conv2d(padded, block.squeeze.weight, block.squeeze.bias)
    for branch in block.edges:
        taps = branch.scale.view(-1, 1, 1, 1) * branch.taps
        channels = len(branch.scale)
        total = total + functional.conv2d(branch.mix(x), taps, branch.bias, padding=1, groups=channels)
    return total + x if block.identity else total


@pytest.mark.parametrize(
    ("inputs", "outputs", "settings"), [(3, 8, {}), (8, 8, {"identity": True}), (4, 6, {"expansion": 0.5})]
)
def test_edge_block_is_the_sum_of_its_branches(inputs, outputs, settings):
    torch.manual_seed(0)
    block = EdgeBlock(inputs, outputs, **settings).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, inputs, 7, 5, dtype=torch.float64)
    expected = _by_branches(block, x)
    assert (block(x) - expected).abs().max() <= 1e-12 * expected.abs().max()
    grads = [torch.autograd.grad(each.square().mean(), list(block.parameters())) for each in (block(x), expected)]
    for own, other in zip(*grads, strict=True):
        assert torch.allclose(own, other, rtol=1e-8, atol=1e-10)


def test_the_identity_needs_equal_channels():
    with pytest.raises(ValueError, match="the identity needs as many outputs as inputs; given 3 and 4"):
        EdgeBlock(3, 4, identity=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    "block",
    [
        lambda: EdgeBlock(8, 8, identity=True),
        lambda: EdgeBlock(3, 8),
        lambda: RepVGGBlock(8, 8),
        lambda: RepVGGBlock(3, 8, stride=2),
        lambda: RepVGGBlock(8, 8, groups=4),
        lambda: RepVGGBlock(8, 16, stride=2, groups=8),
    ],
)
def test_fused_equals_unfused(block, dtype, tolerance):
    torch.manual_seed(0)
    block = block().to(dtype)
    x = torch.randn(
        4, next(block.parameters()).shape[1] * getattr(block, "wide", nn.Conv2d(1, 1, 1)).groups, 9, 7, dtype=dtype
    )
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.2, 0.5)
    for _ in range(3):
        block(x * 2 + 1)
    block.eval()
    fused = block.fuse()
    assert type(fused) is nn.Conv2d
    expected = block(x)
    assert (fused(x) - expected).abs().max() <= tolerance * expected.abs().max()

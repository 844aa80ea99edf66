"""timm's blocks take part by their own methods, whether they change themselves or return another module."""

import pytest
import torch

from compress.fusing.blocks import exchange, fusions_of
from compress.fusing.proof import prove

timm = pytest.importorskip("timm")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050"])
def test_blocks_of_timm_fuse_with_proof(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=4)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        net(x * 2 + 0.5)  # other running statistics than a fresh network's
    before = sum(p.numel() for p in net.parameters())
    fusions = fusions_of(net)
    assert prove(net, fusions, x) < 1e-8
    expected = net.eval()(x)
    exchange(net, fusions.values())
    assert sum(p.numel() for p in net.parameters()) < before
    assert (net(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert fusions_of(net) == {}

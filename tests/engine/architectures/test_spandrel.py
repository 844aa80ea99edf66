"""Networks of spandrel by name; skipped where it is not installed."""

import sys

import pytest
import torch

from compress.errors import UserError
from engine.architectures.early_checks import check_network, prunable_story
from engine.architectures.zoo import arguments_of
from models.Deblur.zoo import ZOO as DEBLURRING
from models.SR.zoo import ZOO

SMALL = {
    "Compact": {"num_feat": 8, "num_conv": 1},
    "SAFMN": {"dim": 8, "n_blocks": 1},
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
}


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match="needs the package spandrel, which is not installed: pip install spandrel"):
        ZOO("spandrel:Compact", upscale_factor=2)


@pytest.mark.parametrize("name", SMALL)
def test_networks_of_spandrel_enlarge_by_the_factor(name: str) -> None:
    pytest.importorskip("spandrel")
    network = ZOO(f"spandrel:{name}", settings=SMALL[name], upscale_factor=2).eval()
    low = torch.rand(1, 3, 12, 16)
    probe = ((low,), (1, 3, 24, 32))
    check_network(network, f"spandrel:{name}", [probe])
    again = ZOO(**arguments_of(network)).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(low), again(low))
    assert "% of" in prunable_story(network, (low,), torch.device("cpu"))


def test_what_spandrel_does_not_have_is_refused() -> None:
    pytest.importorskip("spandrel")
    with pytest.raises(UserError, match="--arch=spandrel:Compakt: unknown network; did you mean 'Compact'"):
        ZOO("spandrel:Compakt", upscale_factor=2)
    with pytest.raises(UserError, match="takes no argument 'num_feats'; did you mean 'num_feat'"):
        ZOO("spandrel:Compact", settings={"num_feats": 8}, upscale_factor=2)
    with pytest.raises(UserError, match="--arch=spandrel:Compact cannot be built"):
        ZOO("spandrel:Compact", settings={"num_feat": "many"}, upscale_factor=2)
    rcan = ZOO("spandrel:RCAN", settings={"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}, upscale_factor=2)
    with pytest.raises(UserError, match="--arch=spandrel:RCAN changes its input in place"):
        check_network(rcan, "spandrel:RCAN", [((torch.zeros(1, 3, 12, 16),), (1, 3, 24, 32))])
    image = torch.rand(1, 3, 16, 16)
    assert DEBLURRING("spandrel:NAFNet", settings={"width": 8}).eval()(image).shape == image.shape

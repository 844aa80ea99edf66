"""Super-resolution networks: the sizes that their papers state, back from a checkpoint's arguments, what is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.errors import UserError
from compress.graph.macs.count import count_macs
from engine.architectures.zoo import arguments_of
from models.C2SRCNN.model import Net
from models.SR.networks.edsr import EDSR
from models.SR.networks.espcn import ESPCN
from models.SR.networks.fsrcnn import FSRCNN
from models.SR.networks.imdn import IMDN, ContrastAttention
from models.SR.networks.srcnn import SRCNN
from models.SR.zoo import ZOO
from tests.models.SR.cases import SMALL


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def kernels(network: nn.Module) -> int:
    """Weights of convolutions alone, as the papers of SRCNN and FSRCNN count."""
    return sum(each.numel() for each in network.parameters() if each.dim() == 4)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("arch", ZOO.architectures)
def test_a_network_comes_back_from_its_arguments(arch: str, scale: int, tmp_path: Path) -> None:
    network = ZOO(arch, settings=SMALL[arch], upscale_factor=scale)
    save_checkpoint(tmp_path / "a.pt", {"arguments": arguments_of(network), "model": network.state_dict()})
    saved = load_checkpoint(tmp_path / "a.pt")
    again = ZOO(**saved["arguments"])
    again.load_state_dict(saved["model"])
    low = torch.rand(2, 3, 9, 14)
    assert network.eval()(low).shape == (2, 3, 9 * scale, 14 * scale)
    assert torch.equal(network(low), again.eval()(low))


@pytest.mark.parametrize("arch", [arch for arch in ZOO.architectures if "bicubic" in ZOO.settings_of(arch)])
def test_the_residual_to_bicubic_is_an_option(arch: str) -> None:
    """With it an untrained network is as good as bicubic, without it far from that."""
    low = torch.rand(1, 3, 24, 24)
    smooth = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    near, far = (ZOO(arch, settings={**SMALL[arch], "bicubic": on}, upscale_factor=2) for on in (True, False))
    assert (near.eval()(low) - smooth).abs().mean() < 0.2
    assert (far.eval()(low) - smooth).abs().mean() > 0.2
    assert near.state_dict().keys() == far.state_dict().keys()  # bicubic has no weights


def test_the_default_is_c2srcnn_with_its_own_arguments() -> None:
    """Checkpoints of older versions hold these arguments, and those of this one the same."""
    network = ZOO("c2srcnn", upscale_factor=3)
    assert isinstance(network, Net)
    assert arguments_of(network) == {"upscale_factor": 3, "features": 32, "shrunk": 32}
    assert isinstance(ZOO(**arguments_of(network)), Net)


def test_srcnn_and_fsrcnn_have_the_sizes_of_the_papers() -> None:
    """Dong et al. 2016, section 3.3 and table 1: weights without biases and PReLU, for one colour."""
    assert kernels(SRCNN(3, colors=1)) == 8_032
    assert kernels(SRCNN(3, middle=5, colors=1)) == 57_184  # SRCNN-Ex
    assert kernels(FSRCNN(3, colors=1)) == 12_464
    assert kernels(FSRCNN(3, width=32, shrunk=5, depth=1, colors=1)) == 3_937  # FSRCNN-s


def test_espcn_has_the_layers_of_the_paper() -> None:
    """Shi et al. 2016, section 3.2: 5-3-3 with 64 and 32 channels, for one colour; counted from these."""
    layers = [(25, 1, 64), (9, 64, 32), (9, 32, 9)]  # taps, inputs, outputs
    assert kernels(ESPCN(3, colors=1)) == sum(taps * before * after for taps, before, after in layers)
    assert count_macs(ESPCN(3, colors=1), (torch.zeros(1, 1, 6, 10),)).total == 60 * (1_600 + 18_432 + 2_592)


def test_edsrs_baseline_has_the_size_of_the_paper() -> None:
    """Lim et al. 2017, table 1: 1.5 M (of the network for x 4)."""
    assert [parameters(EDSR(scale)) for scale in (2, 3, 4)] == [1_369_859, 1_554_499, 1_517_571]
    small = EDSR(2, width=8, depth=3)  # 9 per weight of a 3 x 3 layer: by hand
    inside = (2 * 3 + 1) * 9 * 8 * 8 + 9 * 3 * 8 + 9 * 8 * 32
    assert count_macs(small, (torch.zeros(1, 3, 6, 10),)).total == 60 * inside + 240 * 9 * 8 * 3


def test_imdn_has_the_size_of_the_paper() -> None:
    """Hui et al. 2019, table 4: 694 K, 703 K, 715 K."""
    assert [round(parameters(IMDN(scale)) / 1000) for scale in (2, 3, 4)] == [694, 703, 715]


@pytest.mark.parametrize(
    ("arch", "settings", "message"),
    [
        ("srcnnn", {}, "--arch=srcnnn: unknown architecture; did you mean 'srcnn'"),
        ("timm:resnet18", {}, "there are no networks of timm for this application"),
        ("srcnn", {"depth": 3}, "--depth does not apply to --arch=srcnn; it takes --width, middle"),
        ("fsrcnn", {"shrank": 3}, r"shrank \(in --arch-args\) does not apply.*did you mean 'shrunk'"),
        ("srcnn", {"colors": 1}, "colors .* does not apply"),
        ("imdn", {"width": 6}, "cannot be built with width 6: the width is 6; each block keeps quarters"),
        ("edsr_baseline", {"depth": "many"}, "cannot be built with depth many"),
        ("edsr_baseline", {"width": 10**12}, "cannot be built with width 1000000000000: .*memory"),
        ("net.py:MyNet", {}, "a checkpoint never imports code by itself. If you trust that file, add --arch=net.py:My"),
    ],
)
def test_what_cannot_be_built_is_refused(arch: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ZOO(arch, settings=settings, upscale_factor=2)


def test_constant_channels_have_gradients() -> None:
    """Eight bits make channels constant; the root of a variance of zero has no gradient."""
    x = torch.ones(1, 8, 4, 4, requires_grad=True)
    ContrastAttention(8)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()

"""The proof: what is equal passes, in float64; what is not is refused, and the network is as it was."""

import copy

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.fusing.blocks import fusions_of
from compress.fusing.proof import prove
from models.blocks import RepVGGBlock
from tests.compress.fusing.nets import EdgeNet, InPlace, NormNet, images, trained_statistics


@pytest.mark.parametrize("make", [EdgeNet, NormNet, lambda: nn.Sequential(InPlace(), nn.BatchNorm2d(3))])
def test_equal_networks_pass_and_are_left_as_they_were(make):
    torch.manual_seed(0)
    net = trained_statistics(make())
    state, modules = copy.deepcopy(net.state_dict()), list(net.modules())
    assert prove(net, fusions_of(net), images()) < 1e-10
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert list(net.modules()) == modules
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


class _Forgets(RepVGGBlock):
    """Leaves out what a fresh network does not show: the shift of the 1x1 branch's norm."""

    def fuse(self) -> nn.Conv2d:
        new = super().fuse()
        norm = self.point_norm
        new.bias.data += norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt() - norm.bias
        return new


def test_what_is_zero_today_is_compared_too():
    net = nn.Sequential(_Forgets(3, 3))
    with pytest.raises(UserError, match=r"0: what _Forgets becomes computes something else.*once its parameters have"):
        prove(net, fusions_of(net), images())
    trained_statistics(net)
    with pytest.raises(UserError, match=r"0: what _Forgets becomes computes something else: outputs differ by \d"):
        prove(net, fusions_of(net), images())


def test_a_block_that_never_ran_is_refused():
    net = EdgeNet()
    net.spare = EdgeNet().mid
    with pytest.raises(UserError, match=r"spare never ran on the example inputs.*name the other blocks"):
        prove(net, fusions_of(net), images())


def test_a_block_that_the_network_holds_elsewhere_is_refused():
    class Listed(EdgeNet):
        def __init__(self) -> None:
            super().__init__()
            self.order = [self.head, self.relu, self.mid, self.relu, self.tail]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    net = Listed()
    with pytest.raises(UserError, match=r"head still runs after its exchange.*Python list"):
        prove(net, fusions_of(net), images())


def test_a_network_that_looks_into_its_blocks_is_refused():
    class Looks(EdgeNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (2.0 if hasattr(self.mid, "edges") else 1.0)

    net = Looks()
    with pytest.raises(UserError, match=r"differs by .* the network uses more of head, mid than their outputs"):
        prove(net, fusions_of(net), images())


def test_a_block_called_with_arguments_of_both_kinds_is_compared():
    class Scaled(RepVGGBlock):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return super().forward(x) * scale

        def fuse(self) -> nn.Module:
            new = Scaled.Narrow()
            new.conv = super().fuse()
            return new

        class Narrow(nn.Module):
            def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
                return self.conv(x) * scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Scaled(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x, scale=2.0)

    net = Net()
    assert prove(net, fusions_of(net), images()) < 1e-10

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


class _Sized(nn.Module):
    """Its method is right for maps of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * (x.shape[-1] / 8)

    def fuse(self) -> nn.Conv2d:
        return copy.deepcopy(self.conv)


class _OneSize(_Sized):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * torch.ones(8, 8, dtype=x.dtype)


class _Drops(_Sized):
    """Its method leaves out the dropout."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.conv(x), 0.5, self.training)


class _KeepsDropout(_Drops):
    def fuse(self) -> nn.Module:
        return nn.Sequential(copy.deepcopy(self.conv), nn.Dropout(0.5))


class _Normed(nn.Module):
    """A spectral norm has a state of its own in training mode, which is no noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def fuse(self) -> nn.Conv2d:
        new = nn.Conv2d(3, 3, 1)
        new.weight.data, new.bias.data = self.conv.weight.detach().clone(), self.conv.bias.detach().clone()
        return new


def test_another_size_is_compared_where_the_block_takes_it():
    net = nn.Sequential(_Sized(), nn.ReLU())
    with pytest.raises(UserError, match=r"0: what _Sized becomes .* differ by .*, for an input of 2 x 3 x 11 x 13"):
        prove(net, fusions_of(net), images())
    prove(one := nn.Sequential(_OneSize(), nn.ReLU()), fusions_of(one), images())


def test_dropout_that_is_left_out_is_refused():
    net = nn.Sequential(_Drops(), nn.ReLU())
    with pytest.raises(UserError, match=r"0: _Drops is random in training mode .* and what it becomes is not"):
        prove(net, fusions_of(net), images())
    for kept in (_KeepsDropout(), _Normed().eval()):
        net = nn.Sequential(kept, nn.ReLU())
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

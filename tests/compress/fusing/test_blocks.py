"""Which modules fuse, what they become, and that the network is left as it was."""

import copy

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.fusing.blocks import exchange, fused_copy, fusions_of, method_of
from tests.compress.fusing.nets import EdgeNet, InPlace, NormNet, images, trained_statistics


class _Features(nn.Module):
    """A method `fuse` that joins features is none that fuses a block; nor is a child of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.reparameterize = nn.Conv2d(3, 3, 1)

    def fuse(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def test_methods_with_arguments_and_children_are_no_blocks():
    assert method_of(_Features()) is None
    assert method_of(nn.Conv2d(3, 3, 1)) is None
    assert method_of(InPlace()) == "switch_to_deploy"


@pytest.mark.parametrize("make", [EdgeNet, NormNet])
def test_blocks_become_convolutions_that_compute_the_same(make):
    torch.manual_seed(0)
    net = trained_statistics(make())
    state, x = copy.deepcopy(net.state_dict()), images()
    expected = net.eval()(x)
    net.train()
    fusions = fusions_of(net)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    exchange(net, fusions.values())
    assert {type(net.get_submodule(name)) for name in fusions} == {nn.Conv2d}
    assert all(net.get_submodule(name).training for name in fusions)
    assert (net.eval()(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert fusions_of(net) == {}
    exchange(net, fusions.values(), back=True)
    assert torch.equal(net.eval()(x), expected)


def test_a_method_that_changes_the_block_itself_keeps_the_parts_that_stay():
    net = nn.Sequential(InPlace(), nn.ReLU())
    x, gate = images(), net[0].gate.weight
    expected = net(x)
    (fusion,) = fusions_of(net).values()
    assert net[0].deployed is None
    exchange(net, [fusion])
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert net[0].gate.weight is gate
    assert set(fusion.gone()) == {"0.first.weight", "0.second.weight"}
    assert set(fusion.new()) == {"0.deployed.weight"}
    assert fusions_of(net) == {}


def test_a_block_inside_of_a_block_and_one_under_two_names():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = InPlace()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

        def fuse(self) -> nn.Module:
            return nn.Sequential(self.inner, nn.Identity())

    block = Outer()
    net = nn.ModuleDict({"a": block, "b": block})
    fusions = fusions_of(net)
    assert list(fusions) == ["a"]
    exchange(net, fusions.values())
    assert net["a"] is net["b"]
    assert net["a"][0].deployed is not None


def test_hooks_frozen_parameters_type_and_format_stay():
    net = nn.Sequential(EdgeNet().mid).to(torch.bfloat16).to(memory_format=torch.channels_last)
    seen: list[int] = []
    handle = net[0].register_forward_hook(lambda *_: seen.append(1))
    net.requires_grad_(False)
    exchange(net, fusions_of(net).values())
    x = torch.randn(1, 8, 6, 6, dtype=torch.bfloat16)
    net(x)
    handle.remove()
    net(x)
    assert seen == [1]
    assert net[0].weight.dtype == torch.bfloat16
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in net.parameters())


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def fuse(self) -> nn.Module:
        nn.utils.parametrize.remove_parametrizations(self.conv, "weight")
        return self.conv


def test_a_parametrized_block_is_left_as_it_was():
    """Copies of a parametrized module share its class, and the method removes the parametrization."""
    net, x = nn.Sequential(_Normed()), images()
    expected = net(x)
    fusions = fusions_of(net)
    assert torch.equal(net(x), expected)
    exchange(net, fusions.values())
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert set(net.state_dict()) == {"0.weight", "0.bias"}


def test_no_random_number_is_drawn():
    net = nn.Sequential(InPlace())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fusions_of(net)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_block_is_refused():
    net = EdgeNet()
    with pytest.raises(
        UserError, match=r"'tail' is no block that fuses .*switch_to_deploy without arguments.*there are: head, mid"
    ):
        fusions_of(net, ["tail"])
    with pytest.raises(UserError, match=r"no module 'heed'.*did you mean 'head'"):
        fusions_of(net, ["heed"])


def test_a_method_that_fails_or_returns_something_else_is_named():
    class Broken(nn.Module):
        def fuse(self) -> nn.Module:
            raise RuntimeError("no kernel here")

    class Odd(nn.Module):
        def fuse(self) -> int:
            return 3

    with pytest.raises(UserError, match=r"it\.fuse\(\) failed: RuntimeError: no kernel here; nothing was changed"):
        fused_copy("it", Broken())
    with pytest.raises(UserError, match=r"it\.fuse\(\) returned int; it should return the module"):
        fused_copy("it", Odd())

"""What units are worth by second order, and a network that is thinned by it."""

import copy

import torch
from torch import nn

from compress.thinning.trials.trial import prunable_graph
from engine.search.second_order import SecondOrder, filter_dims

BATCHES = [torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Upscaler(nn.Module):
    """The filters of `wide` are read by a transposed convolution, whose inputs are not measured."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.wide(torch.relu(self.first(images)))))


def made() -> tuple[nn.Module, SecondOrder, dict[str, list[float]]]:
    torch.manual_seed(0)
    net = Upscaler().eval()
    norms = {
        f"{name}.weight[0]": getattr(net, name).weight.detach().flatten(1).norm(1, 1).tolist()
        for name in ("first", "wide")
    }
    return net, SecondOrder(net, prunable_graph(net, BATCHES[0]), BATCHES), norms


def test_importance_adds_up_to_the_error_of_a_network_without_the_units() -> None:
    net, worth, norms = made()
    wanted = net(BATCHES[0]).detach()
    found = worth.importance(norms)
    for name, part in (("first", net.first), ("wide", net.wide)):
        scores = found[f"{name}.weight[0]"]
        assert len(scores) == len(part.weight)
        assert min(scores) >= 0
        without = copy.deepcopy(net)
        nn.init.zeros_(without.get_submodule(name).weight)
        nn.init.zeros_(without.get_submodule(name).bias)
        error = float((without(BATCHES[0]) - wanted).square().sum().detach()) / len(wanted)
        assert 0.4 * error < sum(scores) < 2.5 * error


def test_the_thinned_network_is_near_the_dense_one_and_the_dense_one_stays() -> None:
    net, worth, norms = made()
    before, wanted = copy.deepcopy(net.state_dict()), net(BATCHES[1]).detach()
    graph = prunable_graph(net, BATCHES[0])
    thin = worth.thinned({"first.weight[0]": 4, "wide.weight[0]": 1}, norms)
    again = worth.thinned({"first.weight[0]": 4, "wide.weight[0]": 1}, norms)
    assert (len(thin.first.weight), len(thin.wide.weight)) == (12, 7)
    assert all(torch.equal(one, other) for one, other in zip(thin.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert graph.groups(prunable_only=True)
    error = (thin(BATCHES[1]) - wanted).square().mean() / wanted.var()
    assert error.item() < 0.2


def test_the_filters_of_a_transposed_convolution_are_its_outputs() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2), nn.BatchNorm2d(4)
    )
    net.append(nn.Conv2d(4, 1, 1))
    assert filter_dims(net) == {"0.weight": 0, "2.weight": 1, "4.weight": 0}

"""One-shot pruning on networks of which it is known what is superfluous."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compress.calibration.batch_norm import reestimate_batch_norm
from compress.errors import UserError
from compress.pruning.one_shot.prune import OneShot, prune_by_norms, prune_one_shot
from compress.thinning.thin import thin
from compress.thinning.trials.trial import prunable_graph


class Doubled(nn.Module):
    """Every second hidden channel is a larger copy of the one before, so that the smaller half knows everything."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight[1::2] = 3 * self.first.weight[::2]
            self.norm.running_var.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3)))


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(16, 2, 8, 8) for _ in range(2)]


def distance(a: nn.Module, b: nn.Module) -> float:
    """Relative squared distance of the outputs on data that calibrated nothing."""
    torch.manual_seed(2)
    x = torch.randn(64, 2, 8, 8)
    with torch.no_grad():
        return float((a(x) - b(x)).square().sum() / a(x).square().sum())


def statistics_fit(network: Doubled) -> Doubled:
    """BatchNorm statistics as training would leave them."""
    network.norm.momentum = None
    network.train()
    for batch in batches():
        network(batch)
    return network.eval()


def test_what_is_known_twice_leaves_and_is_made_good() -> None:
    dense = statistics_fit(Doubled())
    state = {name: each.clone() for name, each in dense.state_dict().items()}
    found = prune_one_shot(dense, batches(), 0.52)
    assert all(torch.equal(each, state[name]) for name, each in dense.state_dict().items())
    (units,) = found.removed.values()
    assert sorted(unit // 2 for unit in units) == [0, 1, 2, 3]  # one of each pair
    assert found.left == pytest.approx(0.5, abs=0.01)
    assert distance(dense, found.network) < 1e-3
    assert distance(dense, prune_by_norms(dense, batches(), 0.52).network) > 1e-2


class SharedHead(nn.Module):
    """One head reads the images at two scales."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.shared, self.after = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.last = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        scales = x, nn.functional.avg_pool2d(x, 2)
        return self.last(torch.cat([torch.relu(self.after(self.shared(each))).mean((2, 3)) for each in scales], 1))


class Recurrent(nn.Module):
    """One convolution is called three times, with a BatchNorm for each call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.shared = nn.Conv2d(2, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.norms, self.last = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(3)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for norm in self.norms:
            x = torch.relu(norm(self.shared(x))) + x
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [SharedHead, Recurrent])
@pytest.mark.parametrize("way", ["one pass", "layer by layer"])
def test_layers_behind_carried_statistics_are_repaired_with_them(
    kind: Callable[[], nn.Module], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "one pass":
        monkeypatch.setattr("compress.pruning.one_shot.repair.together", lambda *_: None)
    dense = kind()
    reestimate_batch_norm(dense, batches())
    found = prune_one_shot(dense.eval(), batches(), 0.6)
    assert around_mean(dense, found.network) < 0.2


def around_mean(dense: nn.Module, pruned: nn.Module) -> float:
    """Squared distance of the outputs, as a share of how much they vary."""
    with torch.no_grad():
        wanted, given = (torch.cat([each(x) for x in batches()]) for each in (dense, pruned))
    return float((given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_the_masked_network_is_thinned_with_proof() -> None:
    found = prune_one_shot(statistics_fit(Doubled()), batches(), 0.52)
    thinned = thin(found.network, batches()[0])
    assert {name: sorted(each) for name, each in thinned.removed.items()} == found.removed
    assert found.network.first.weight.shape == (4, 2, 3, 3)
    assert thinned.difference < 1e-5


@pytest.mark.parametrize("target", ["macs", "params"])
def test_the_budget_is_met_as_counted(target: str) -> None:
    from compress.thinning.cost import parameter_count, weight_macs_left

    dense = statistics_fit(Doubled())
    graph, count = prunable_graph(dense, batches()[0]), {"macs": weight_macs_left, "params": parameter_count}[target]
    for way in (prune_one_shot, prune_by_norms):
        found = way(dense, batches(), 0.7, target)  # type: ignore[operator]
        assert found.left == pytest.approx(count(graph, dense, found.removed) / count(graph, dense, {}))
        assert 0.4 < found.left <= 0.7


def test_what_an_lstm_reads_stays_and_says_so() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Linear(5, 8), nn.LSTM(8, 6, batch_first=True)
            self.middle, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.relu(self.middle(self.lstm(self.first(x))[0])))
            return out

    found = prune_one_shot(Sequences(), [torch.randn(4, 7, 5)], 0.9)
    assert list(found.removed) == ["middle.weight[0]"]
    wanted = "first.weight[0]: all 8 units stay: 'lstm.weight_ih_l0' reads it, a layer whose inputs are not measured"
    assert wanted in found.notes
    own = "all 6 units stay: 'lstm.weight_hh_l0' reads it, a layer whose inputs are not measured"
    assert any(own in note for note in found.notes)  # though a linear layer, which is measured, reads them too


def test_what_a_transposed_convolution_reads_stays(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 1, 2, 2)
    found = prune_one_shot(nn.Sequential(*layers), batches(), 0.8)
    assert list(found.removed) == ["0.weight[0]"]
    assert "'4.weight' reads it, a layer whose inputs are not measured" in found.notes[0]
    with caplog.at_level(logging.WARNING):
        out = prune_one_shot(nn.Sequential(*layers), batches(), 0.2)
    assert "20.0% of the macs is out of reach" in out.notes[-1]


def test_wrong_budgets_and_networks_without_a_group_are_refused() -> None:
    with pytest.raises(UserError, match="to should be a number, > 0, < 1"):
        prune_one_shot(Doubled(), batches(), 1.0)
    with pytest.raises(UserError, match="given 'latency'; target should be one of macs, params"):
        prune_one_shot(Doubled(), batches(), 0.5, "latency")
    with pytest.raises(UserError, match="nothing was pruned: the network has no prunable group"):
        prune_one_shot(nn.Conv2d(2, 3, 3), batches(), 0.5)


class Gram(nn.Module):
    """Four MACs a pixel and pair of channels, beside those of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).flatten(2)
        return self.last((y @ (y.mT @ y)).unflatten(2, x.shape[2:]))


def test_what_a_budget_of_macs_leaves_out_is_said() -> None:
    pixels = 8 * 8
    weights, products = pixels * (2 * 4 + 4 * 3), 2 * pixels * pixels * 4
    graph = prunable_graph(Gram(), batches()[0][:1])
    assert (sum(graph.macs.values()), graph.other_macs) == (weights, products)
    left_out = f"{100 * products / (weights + products):.2g} %"
    assert any(
        f"are not in it: {left_out} of the network's" in note for note in prune_one_shot(Gram(), batches(), 0.9).notes
    )
    assert not any("budget counts" in note for note in prune_one_shot(Gram(), batches(), 0.9, "params").notes)
    assert not any("budget counts" in note for note in prune_one_shot(Doubled(), batches(), 0.9).notes)


class Ways(nn.Module):
    """Three convolutions, run one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.way != "no grad"):
            x = torch.relu(self.a(x))
            if self.way == "written":
                x = torch.sigmoid(self.b(x))
                y = x.square()
                x.mul_(2)
                return self.c(x + y)
            x = torch.relu(self.b(x))
        x = self.c(x.detach() if self.way == "detached" else x)
        return {"argmax": x.argmax(1), "rounded": x.round()}.get(self.way, x)


@pytest.mark.parametrize("way", ["no grad", "detached"])
def test_what_no_gradient_reaches_stays_and_is_named(way: str) -> None:
    found = prune_one_shot(Ways(way), batches(), 0.7)
    assert list(found.removed) == ["b.weight[0]"]  # read by c, which has a gradient
    assert any(
        "a.weight[0]: all 8 units stay: no gradient of the output reaches 'b.weight'" in each for each in found.notes
    )


@pytest.mark.parametrize("way", ["argmax", "rounded"])
def test_an_output_without_a_gradient_is_refused(way: str) -> None:
    with pytest.raises(UserError, match=r"nothing was pruned: .*the output is of integers or rounded"):
        prune_one_shot(Ways(way), batches(), 0.7)


def test_a_network_that_overwrites_what_its_gradient_needs_is_refused() -> None:
    with pytest.raises(UserError, match="the output's gradient cannot be computed: .*modified by an inplace operation"):
        prune_one_shot(Ways("written"), batches(), 0.7)


def test_a_network_of_tokens_loses_what_it_knows_twice() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for tensor in (net[1].weight, net[1].bias):
            tensor[1::2] = 3 * tensor[::2]
    before = net.requires_grad_(False)(torch.arange(11))
    found = prune_one_shot(net, [{"input": torch.arange(11).repeat(200)}], 0.52)  # with few it could be chance
    (units,) = found.removed.values()
    assert sorted(unit // 2 for unit in units) == list(range(8))
    assert torch.allclose(found.network(torch.arange(11)), before, atol=5e-3)


def test_weights_that_two_layers_share_are_not_repaired() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.c.weight = self.b.weight
            self.wide, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.c(self.b(self.first(x).relu()).relu()).relu()
            return self.last(self.wide(x).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network, batches = Tied(), [torch.randn(32, 4)]
    found = prune_one_shot(network, batches, 0.6, "params")
    assert torch.equal(found.network.get_parameter("b.weight"), network.b.weight)
    assert sum(map(len, found.removed.values())) > 0
    assert any("whose weight another one shares" in note for note in found.notes)


def test_a_wrapped_network_is_pruned() -> None:
    torch.manual_seed(0)
    network = nn.DataParallel(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
    assert prune_one_shot(network, [torch.randn(32, 4)], 0.6).left <= 0.6


def test_values_that_nothing_can_be_computed_from_are_refused() -> None:
    network, x = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)), torch.randn(8, 4)
    with pytest.raises(UserError, match="batches given .1. hold no sample"):
        prune_one_shot(network, [x[:0]], 0.5)
    with pytest.raises(UserError, match="statistics of BatchNorm cannot be estimated again, give larger minibatches"):
        prune_one_shot(network, [x[:1]], 0.5)
    with torch.no_grad():
        network[2].bias[0] = float("inf")
    with pytest.raises(UserError, match="2.bias holds NaN or infinite values; nothing was pruned"):
        prune_one_shot(network, [x], 0.5)


def test_weights_in_channels_last() -> None:
    made = prune_one_shot(statistics_fit(Doubled()), batches(), 0.52)
    last = statistics_fit(Doubled()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = prune_one_shot(last, batches(), 0.52)
    assert found.removed == made.removed
    assert found.error == pytest.approx(made.error, rel=1e-3)


class Named(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(input=self.first(input=x)))
        return self.head(input=torch.relu(self.second(input=x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_layers_that_are_called_by_name() -> None:
    made = prune_one_shot(statistics_fit(Doubled()), batches(), 0.52)
    found = prune_one_shot(statistics_fit(Named()), batches(), 0.52)
    assert found.removed == made.removed
    assert found.error == pytest.approx(made.error, rel=1e-5)


@pytest.mark.parametrize("prune", [prune_one_shot, prune_by_norms])
def test_within_inference_mode(prune: Callable[..., OneShot]) -> None:
    made = prune(statistics_fit(Doubled()), batches(), 0.52)
    with torch.inference_mode():
        found = prune(statistics_fit(Doubled()), batches(), 0.52)
    assert found.removed == made.removed
    assert not any(each.is_inference() for each in found.network.state_dict().values())


class OfUnequalUnits(nn.Module):
    """Two groups of two units, one with nine tenths of the multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.between = nn.Conv2d(2, 2, 7, padding=3), nn.Conv2d(2, 3, 7, padding=3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.between(torch.relu(self.large(x)))).mean((2, 3)))


def test_a_unit_that_is_larger_than_what_was_to_go_is_told_of() -> None:
    torch.manual_seed(0)
    found = prune_one_shot(OfUnequalUnits(), batches(), 0.9)
    assert found.left < 0.85
    assert any("unit that left is a large one" in note for note in found.notes), found.notes
    near = prune_one_shot(OfUnequalUnits(), batches(), found.left + 0.01)
    assert not any("large one" in note for note in near.notes)


def test_a_surrounding_autocast_sees_the_weights_that_are_set() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3)]
    network, x = nn.Sequential(*layers).eval(), [torch.rand(8, 3, 12, 12) for _ in range(2)]
    made = []
    for cached in (False, True):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            made.append(prune_one_shot(network, x, 0.6))
    assert made[0].removed == made[1].removed
    assert made[0].error == made[1].error
    wanted, found = (each.network.state_dict() for each in made)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


class Counting(nn.Module):
    """Holds running statistics and does not use them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def test_statistics_that_are_not_carried_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(2, 8, 3), Counting(), nn.Conv2d(8, 2, 3))
    found = prune_one_shot(network, batches(), 0.6)
    assert found.uncarried == prune_by_norms(network, batches(), 0.6).uncarried == ("1",)
    assert any("running statistics were left as they are" in note and " 1: the layer" in note for note in found.notes)
    assert prune_one_shot(statistics_fit(Doubled()), batches(), 0.52).uncarried == ()

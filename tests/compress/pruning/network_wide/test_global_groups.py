"""Pruning to a budget: MACs, parameters, latency."""

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.graph.macs.count import count_macs
from compress.pruning.network_wide.global_groups import fewest
from tests.compress.graph.nets import resnet_cifar

IMAGES = torch.zeros(2, 3, 16, 16)


def run(epochs=(0,), thin=True, inputs=IMAGES, **arguments):
    torch.manual_seed(0)
    model = resnet_cifar(blocks=1, widths=(16, 24, 32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    instance = {"class": "GlobalRankedGroupPruner", "weights": ["*conv?.weight", "0.weight"], **arguments}
    schedule = {
        "pruners": {"it": instance},
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "policies": [{"pruner": {"instance_name": "it"}, "epochs": list(epochs)}]
        + [{"extension": {"instance_name": "thinner"}, "epochs": list(epochs)}] * thin,
    }
    scheduler = dict_config(model, optimizer, schedule, example_inputs=inputs)
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_minibatch_begin(epoch, 0, 1, optimizer)
        yield model, scheduler


def macs(model: nn.Module) -> int:
    return int(count_macs(model, torch.zeros(1, 3, 16, 16)).total)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


DENSE = resnet_cifar(blocks=1, widths=(16, 24, 32))


@pytest.mark.parametrize("to", [0.75, 0.5, 0.3])
def test_the_thinned_network_meets_the_budget_of_macs_and_hardly_more(to) -> None:
    ((model, _),) = run(to=to)
    assert to - 0.05 < macs(model) / macs(DENSE) <= to


def test_the_thinned_network_meets_the_budget_of_parameters() -> None:
    ((model, _),) = run(to=0.5, target="params")
    assert 0.46 < parameters(model) / parameters(DENSE) <= 0.5


def test_a_gradual_budget_shrinks_the_dense_networks_cost_also_after_thinning() -> None:
    left = [macs(model) / macs(DENSE) for model, _ in run(epochs=(0, 1, 2, 3), to=0.4, gradual=True)]
    assert 0.6 < left[0] <= 1 - 0.6 * (1 - 0.75**3)
    assert left == sorted(left, reverse=True)
    assert 0.34 < left[-1] <= 0.4


def test_importance_for_its_cost_decides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = {
        "pruners": {"it": {"class": "GlobalRankedGroupPruner", "weights": ["0.weight", "2.weight"], "to": 0.85}},
        "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}],
    }
    scheduler = dict_config(model, optimizer, schedule, example_inputs=torch.zeros(1, 3, 8, 8))
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    # one unit of the first: 27 + 8 MACs a pixel; of the second: 8 + 2; all weights matter alike, so the costly go
    assert [int((model[i].weight == 0).flatten(1).all(1).sum()) for i in (0, 2)] == [2, 0]


def test_widths_stay_multiples_and_no_group_loses_more_than_allowed(caplog) -> None:
    ((model, _),) = run(to=0.05, round_to=4, max_sparsity=0.5)
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(width % 4 == 0 for width in widths)
    assert min(widths) == 8
    assert "the budget of 5.0% of the macs is out of reach with max_sparsity 0.5" in caplog.text


def test_latency_is_measured_and_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes as many seconds as the network has parameters."""
    monkeypatch.setattr("compress.thinning.cost._seconds", lambda model, *_: parameters(model))
    ((model, scheduler),) = run(to=0.7, target="latency", inputs=torch.zeros(2, 3, 32, 32))
    taken = parameters(model) / parameters(DENSE)
    assert 0.65 < taken <= 0.7
    assert scheduler.policies[0].state_dict()["pruner"]["last"][1] == pytest.approx(taken)


def test_it_needs_inputs() -> None:
    with pytest.raises(UserError, match="no example_inputs were given and no batch was seen yet"):
        next(run(to=0.5, inputs=None))


def test_the_search_finds_the_fewest() -> None:
    assert fewest(10, lambda k: 1 - k / 10, 0.55) == (5, 0.5)
    assert fewest(10, lambda k: 1 - k / 100, 0.55) == (10, 0.9)
    assert fewest(10, lambda k: 0.1, 0.55) == (0, 0.1)

"""Pruners by measured loss: the greedy search and the learned ranking."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.pruning.network_wide.learned_ranking import evolve
from compress.thinning.cost import parameter_count, weight_macs_left

PIXELS = (4, 3, 8, 8)


def net() -> nn.Sequential:
    """Two groups of filters; those of the second matter less than their norms say: what reads them is nearly zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 10, 3, padding=1), nn.ReLU(),
        nn.Conv2d(10, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    with torch.no_grad():
        model[2].weight *= 5
        model[4].weight[:, :6] *= 1e-3
        model[2].weight[:6] *= 4
    return model


def begun(model: nn.Module, instance: dict[str, Any], epochs: list[int], loss: bool = True) -> Any:
    """The scheduler after one minibatch of each epoch."""
    torch.manual_seed(1)
    inputs = torch.randn(PIXELS)
    target = model(inputs).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    schedule = {"pruners": {"it": instance}, "policies": [{"pruner": {"instance_name": "it"}, "epochs": epochs}]}
    scheduler = dict_config(model, optimizer, schedule, example_inputs=inputs)
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(2):
            if loss:
                scheduler.measure_loss = lambda: float((model(inputs) - target).detach().double().square().sum())
            scheduler.on_minibatch_begin(epoch, step, 2, optimizer)
            optimizer.zero_grad()
            scheduler.before_backward_pass(epoch, step, 2, (model(inputs) - target).square().mean()).backward()
            scheduler.before_parameter_optimization(epoch, step, 2, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, 2, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)
    return scheduler


def alive(model: nn.Sequential) -> tuple[int, int]:
    return tuple(int(model[place].weight.detach().flatten(1).any(1).sum()) for place in (0, 2))  # type: ignore[return-value]


GREEDY = {"class": "GreedyFilterPruner", "weights": ["0.weight", "2.weight"], "to": 0.6}
LEARNED = {"class": "LearnedRankingPruner", "weights": ["0.weight", "2.weight"], "to": 0.6, "tries": 60}
PLAIN = {"class": "GlobalRankedGroupPruner", "weights": ["0.weight", "2.weight"], "to": 0.6}


def by_hand(model: nn.Sequential, step: int, budget: float) -> tuple[int, int]:
    """The greedy search as a plain loop over copies of the network; counts of filters that stay."""
    torch.manual_seed(1)
    inputs = torch.randn(PIXELS)
    target = model(inputs).detach()
    orders = [model[place].weight.detach().abs().flatten(1).sum(1).argsort().tolist() for place in (0, 2)]

    def masked(gone: list[int]) -> tuple[float, float]:
        other = net()
        with torch.no_grad():
            for place, order, count in zip((0, 2), orders, gone, strict=True):
                other[place].weight[order[:count]] = 0
                other[place].bias[order[:count]] = 0
            first, second = 10 - gone[0], 10 - gone[1]
            macs = 64 * (27 * first + 9 * first * second + 4 * second)
            return float((other(inputs) - target).double().square().sum()), macs / (64 * (270 + 900 + 40))

    gone = [0, 0]
    loss, left = masked(gone)
    while left > budget:
        trials = []
        for place in range(2):
            wider = [min(9, count + step * (place == k)) for k, count in enumerate(gone)]
            if wider != gone:
                new, cheaper = masked(wider)
                trials.append(((new - loss) / (left - cheaper), place, wider, new, cheaper))
        _, _, gone, loss, left = min(trials)
    return 10 - gone[0], 10 - gone[1]


@pytest.mark.parametrize("step", [0.1, 0.3])
def test_the_greedy_search_is_that_of_a_plain_loop(step: float) -> None:
    model = net()
    expected = by_hand(net(), round(10 * step), 0.6)
    scheduler = begun(model, {**GREEDY, "step": step, "gradual": False}, [0])
    assert alive(model) == expected
    assert expected != (10, 10)
    assert scheduler.masks["0.bias"].mask is None or alive(model)[0] < 10


def test_it_prunes_where_the_loss_rises_least_which_norms_do_not_see() -> None:
    ours, norms = net(), net()
    begun(ours, {**GREEDY, "gradual": False}, [0])
    begun(norms, PLAIN, [0])
    inputs, dense = torch.randn(PIXELS), net()
    target = dense(inputs)
    losses = [float((model(inputs) - target).square().sum()) for model in (ours, norms)]
    assert losses[0] < losses[1]


def test_a_gradual_budget_is_met_step_by_step_and_what_was_masked_stays() -> None:
    model = net()
    scheduler = begun(model, GREEDY, [0])
    once = {name: each.mask.clone() for name, each in scheduler.masks.items() if each.mask is not None}
    model = net()
    scheduler = begun(model, {**GREEDY, "to": 0.5}, [0, 1, 2])
    graph = scheduler.graph.get()
    removed = {}
    for group in graph.groups(prunable_only=True):
        name, dim = next(iter(group.members))
        weight = model.get_parameter(name).detach().movedim(dim, 0).flatten(1)
        removed[group.name] = [
            unit for unit in range(group.units) if not weight[group.positions((name, dim), unit)].any()
        ]
    left = weight_macs_left(graph, model, removed) / weight_macs_left(graph, model, {})
    assert 0.4 < left <= 0.5
    assert once


def test_parameters_are_a_budget_too_and_a_part_out_of_reach_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    scheduler = begun(model, {**GREEDY, "target": "params", "to": 0.05, "gradual": False, "max_sparsity": 0.5}, [0])
    assert alive(model) == (5, 5)
    assert "is out of reach with max_sparsity 0.5" in caplog.text
    assert parameter_count(scheduler.graph.get(), model, {}) == sum(each.numel() for each in model.parameters())


def test_round_to_leaves_multiples() -> None:
    model = net()
    begun(model, {**GREEDY, "gradual": False, "round_to": 5}, [0])
    assert set(alive(model)) <= {5, 10}


def test_the_network_is_as_before_but_for_the_masks() -> None:
    model = net()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    scheduler = begun(model, {**GREEDY, "gradual": False}, [0])
    for name, value in model.state_dict().items():
        mask = scheduler.masks[name].mask
        expected = before[name] if mask is None else before[name] * mask
        assert torch.allclose(value, expected, atol=1e-6)
    assert model.training


@pytest.mark.parametrize(
    "instance", [{**GREEDY, "gradual": False}, {**LEARNED, "tries": 20}], ids=["greedy", "learned"]
)
def test_a_loop_that_offers_no_loss_compares_outputs(
    instance: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with_loss, without = net(), net()
    begun(with_loss, instance, [0])
    begun(without, instance, [0], loss=False)  # the outputs' difference is this loss, but for a factor
    assert alive(without) == alive(with_loss)
    assert "offers no loss to measure (scheduler.measure_loss)" in caplog.text


def test_the_learned_ranking_is_at_least_as_good_as_the_plain_one_on_what_it_measured() -> None:
    torch.manual_seed(1)
    inputs = torch.randn(PIXELS)
    target = net()(inputs)
    losses = []
    for instance in (LEARNED, {**PLAIN, "norm": "L2"}, {**LEARNED, "tries": 1}):
        model = net()
        scheduler = begun(model, instance, [0])
        losses.append(float((model(inputs) - target).square().sum()))
        graph = scheduler.graph.get()
        assert graph.groups(prunable_only=True)
    assert losses[0] < losses[1]
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)  # the first candidate is the plain ranking


def test_evolution_finds_the_fittest_and_repeats() -> None:
    wanted = np.array([[2.0, 0.5], [1.0, 0.0], [0.5, -0.5]])

    def distance(gene: np.ndarray) -> float:
        return float(np.abs(gene - wanted).sum())

    found = [evolve(3, distance, 400, 16, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert np.array_equal(*found)
    assert distance(found[0]) < 0.5 * distance(np.tile([1.0, 0.0], (3, 1)))


def test_without_a_graph_it_is_refused() -> None:
    model = net()
    schedule = {"pruners": {"it": GREEDY}, "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}]}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = dict_config(model, optimizer, schedule)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 2, optimizer)
    model(torch.randn(PIXELS)).mean().backward()
    with pytest.raises(UserError, match="no example_inputs were given"):
        scheduler.before_parameter_optimization(0, 0, 2, optimizer)

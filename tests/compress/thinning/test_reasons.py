"""Why units went is kept beside the recipe: the importances are the pruner's, the threshold divides them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.config import dict_config
from compress.graph.channels import channel_graph
from compress.thinning.ranking import agreed_units
from compress.thinning.reasons import reasons_for, reasons_of
from tests.compress.harness import Run, tiny_net

REMOVER = {"class": "FilterRemover", "thinning_func_str": "remove_filters"}
IMAGES = torch.zeros(1, 3, 6, 6)


def thinned(pruner: dict[str, Any], mask_in: int = 0, thin_in: int = 0) -> Run:
    """A run whose network is thinned; before that it is `tiny_net()`."""
    schedule = {
        "pruners": {"it": pruner},
        "extensions": {"thinner": REMOVER},
        "policies": [
            {"pruner": {"instance_name": "it"}, "epochs": [mask_in]},
            {"extension": {"instance_name": "thinner"}, "epochs": [thin_in]},
        ],
    }
    run = Run(schedule, steps=1)
    run.scheduler = dict_config(run.net, run.optimizer, schedule, example_inputs=IMAGES)
    return run


def test_a_ranked_group_keeps_its_norms_and_the_largest_that_went() -> None:
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"]}
    run = thinned(pruner)
    run.epoch(0)
    norms = tiny_net().conv1.weight.detach().abs().mean((1, 2, 3))
    [recipe] = run.scheduler.recipes
    [(group, reason)] = recipe["reasons"].items()
    assert group.startswith("conv1.weight")
    torch.testing.assert_close(reason["scores"], norms)
    assert reason["removed"] == sorted(norms.argsort()[:4].tolist())
    assert reason["threshold"] == pytest.approx(float(norms.sort().values[3]))
    assert reason["epoch"] == 0
    assert run.scheduler.graph.reasons == {}  # the numbers of units hold no longer


def test_a_threshold_is_kept_as_it_was_given() -> None:
    net = tiny_net()
    largest = net.conv1.weight.detach().abs().flatten(1).amax(1)
    threshold = float(largest.sort().values[2:4].mean())
    pruner = {
        "class": "StructureParameterPruner", "threshold_criteria": "Max",
        "reg_regims": {"conv1.weight": [threshold, "Filters"]},
    }  # fmt: skip
    run = thinned(pruner)
    run.epoch(0)
    [reason] = run.scheduler.recipes[0]["reasons"].values()
    torch.testing.assert_close(reason["scores"], largest)
    assert reason["threshold"] == threshold
    assert len(reason["removed"]) == 3


def test_a_budget_keeps_importance_over_cost() -> None:
    pruner = {"class": "GlobalRankedGroupPruner", "to": 0.5, "weights": ["conv?.weight"]}
    run = thinned(pruner)
    run.epoch(0)
    reasons = run.scheduler.recipes[0]["reasons"]
    threshold = {reason["threshold"] for reason in reasons.values()}
    assert len(threshold) == 1  # one number for the whole network
    for reason in reasons.values():
        gone = [float(reason["scores"][unit]) for unit in reason["removed"]]
        assert max(gone) <= next(iter(threshold)) * (1 + 1e-6)


def test_a_resumed_run_still_knows_why(tmp_path: Path) -> None:
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"]}
    run = thinned(pruner, mask_in=0, thin_in=1)
    run.epoch(0)
    torch.save(run.save(), tmp_path / "s.pt")
    other = thinned(pruner, mask_in=0, thin_in=1)
    other.load(torch.load(tmp_path / "s.pt", weights_only=True))
    for each in (run, other):
        each.epoch(1)
    mine, theirs = (each.scheduler.recipes[0]["reasons"] for each in (run, other))
    assert mine
    assert mine.keys() == theirs.keys()
    for group, reason in mine.items():
        assert torch.equal(reason["scores"], theirs[group]["scores"])
        assert {**reason, "scores": 0} == {**theirs[group], "scores": 0}


def test_a_state_without_reasons_loads() -> None:
    pruner = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["conv1.weight"]}
    run = thinned(pruner, thin_in=1)
    run.epoch(0)
    state = run.save()
    del state["scheduler"]["reasons"]
    other = thinned(pruner, thin_in=1)
    other.load(state)
    other.epoch(1)
    assert other.net.conv1.out_channels == 4
    assert other.scheduler.recipes[0]["reasons"] == {}


def test_a_coupled_unit_has_the_importance_of_the_weight_that_keeps_it() -> None:
    net = tiny_net()
    graph = channel_graph(net, IMAGES)
    places = {("bn1.weight", 0): torch.tensor([0.1] * 4 + [0.9] * 4), ("conv1.weight", 0): torch.tensor([0.2] * 8)}
    kept = {place: scores > 0.15 for place, scores in places.items()}
    ranked = agreed_units(graph, net, kept, places)
    [scores] = ranked.scores.values()
    assert scores.tolist() == pytest.approx([0.2] * 4 + [0.9] * 4)
    assert reasons_of(ranked, 0) == {}  # nothing goes: one of the two keeps each unit


def test_groups_without_a_ranking_have_no_entry() -> None:
    known = {"a[0]": {"epoch": 1, "scores": torch.zeros(2), "threshold": 0.0}}
    assert reasons_for({"a[0]": [1], "b[0]": [0]}, known) == {"a[0]": {**known["a[0]"], "removed": [1]}}

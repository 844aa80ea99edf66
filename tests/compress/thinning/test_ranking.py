"""Votes of single weights on the units of a group."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.channels import channel_graph
from compress.pruning.ranked import L1RankedStructureParameterPruner
from compress.thinning.ranking import Vote, agreed_units, rank_groups
from compress.thinning.thin import thin
from tests.compress.thinning.blocks import Sum


@pytest.fixture
def coupled():
    torch.manual_seed(0)
    model = nn.Sequential(Sum(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 2, 1))
    return model, channel_graph(model, torch.zeros(1, 3, 4, 4))


def lowest(scores, level):
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[scores.argsort()[: int(level * len(scores))]] = False
    return keep


A, B = "0.branches.0.weight", "0.branches.1.weight"


def votes(level_a=0.4, level_b=0.4):
    return [Vote(A, 0, torch.tensor([1.0, 2, 3]), level_a), Vote(B, 0, torch.tensor([30.0, 10, 20]), level_b)]


@pytest.mark.parametrize(("combine", "unit"), [("mean", 1), ("first", 0)])
def test_the_worked_example(coupled, combine, unit):
    model, graph = coupled
    ranked = rank_groups(graph, model, votes(), lowest, combine)
    assert ranked.removed == {f"{A}[0]": [unit]}
    assert ranked.unnamed == {f"{A}[0]": ["0.branches.0.bias", "0.branches.1.bias", "1.weight"]}
    for name in (A, B):
        assert (~ranked.masks[name]).flatten(1).all(1).nonzero().flatten().tolist() == [unit]
    assert not ranked.masks["0.branches.0.bias"][unit]
    assert not ranked.masks["1.weight"][:, unit].any()


def test_levels_inside_a_group_must_agree(coupled):
    model, graph = coupled
    with pytest.raises(UserError, match=r"different levels: 0.branches.0.weight 0.4, 0.branches.1.weight 0.5"):
        rank_groups(graph, model, votes(0.4, 0.5), lowest)


def test_unknown_places_are_errors(coupled):
    model, graph = coupled
    with pytest.raises(UserError, match="0.branches.0.weight: dimension 7 has no channels"):
        rank_groups(graph, model, [Vote(A, 7, torch.zeros(3), 0.5)], lowest)


def test_pinned_groups_are_masked_in_place_and_noted(coupled):
    model, graph = coupled
    ranked = rank_groups(graph, model, [Vote("1.weight", 0, torch.tensor([2.0, 1.0]), 0.5)], lowest)
    assert ranked.removed == {}
    assert "1.weight: masked in place, they cannot leave the network: network output" in ranked.notes[0]
    assert list(ranked.masks) == ["1.weight"]
    assert ranked.masks["1.weight"].flatten(1).any(1).tolist() == [True, False]


def test_a_unit_goes_when_all_named_weights_agree(coupled):
    model, graph = coupled
    kept = {(A, 0): torch.tensor([False, False, True]), (B, 0): torch.tensor([False, True, True])}
    ranked = agreed_units(graph, model, kept)
    assert ranked.removed == {f"{A}[0]": [0]}
    assert ranked.masks[A].flatten(1).any(1).tolist() == [False, False, True]  # its unit 1 is masked in it alone
    assert ranked.masks[B].flatten(1).any(1).tolist() == [False, True, True]
    assert ranked.masks["1.weight"].any(0).flatten().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("level", "round_to", "max_sparsity", "removed"),
    [(0.3, 1, 1.0, 9), (0.3, 8, 1.0, 8), (0.99, 8, 1.0, 24), (0.9, 1, 0.5, 16), (0.999, 1, 1.0, 31), (0.2, 8, 1.0, 0)],
)
def test_how_many_go(level, round_to, max_sparsity, removed):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 2, 1))
    graph = channel_graph(model, torch.zeros(1, 3, 4, 4))
    pruner = L1RankedStructureParameterPruner(["0.weight"], level, round_to=round_to, max_sparsity=max_sparsity)
    ranked = rank_groups(graph, model, [Vote("0.weight", 0, torch.arange(32.0), level)], pruner.keep)
    assert sum(len(units) for units in ranked.removed.values()) == removed
    result = thin(model, torch.zeros(1, 3, 4, 4), ranked.masks)
    assert model[0].out_channels == 32 - removed
    assert result.removed == ranked.removed

"""`HeadDims`: positions within the heads of an attention, ranked by a schedule and thinned away."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.thinning.cost import left_out_of_budget, parameter_count
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.trial import prunable_graph

TOKENS = torch.linspace(-1, 1, 2 * 3 * 8).reshape(2, 3, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.attention(x, x, x, need_weights=False)[0])


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


@pytest.fixture
def graph(block: Block) -> ChannelGraph:
    return prunable_graph(block, TOKENS)


def thinned(model: nn.Module, pruners: dict, inputs: torch.Tensor | None = TOKENS, strict: bool = False) -> nn.Module:
    """The network after the one epoch in which all pruners, and then a remover, act."""
    schedule = {
        "pruners": pruners,
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "policies": [
            *({"pruner": {"instance_name": name}, "epochs": [0]} for name in pruners),
            {"extension": {"instance_name": "thinner"}, "epochs": [0]},
        ],
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = dict_config(model, optimizer, schedule, example_inputs=inputs, strict=strict)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    return model


def pruner(group: str, level: float, weight: str = "attention.in_proj_weight") -> dict:
    return {"class": "L1RankedStructureParameterPruner", "reg_regims": {weight: [level, group]}}


def test_the_positions_with_the_smallest_rows_go(block: Block) -> None:
    with torch.no_grad():
        block.attention.in_proj_weight[[1, 5, 9, 13]] *= 0.01  # position 1 of both heads' queries and keys
        block.attention.in_proj_weight[[18, 22]] *= 0.01  # position 2 of both heads' values
        kept = block.attention.in_proj_weight[[0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21, 23]].clone()
    attention = thinned(block, {"inner": pruner("HeadDims", 0.25)}).attention
    assert (attention.num_heads, attention.head_dim, attention.value_dim) == (2, 3, 3)
    assert torch.equal(attention.in_proj_weight, kept)


def test_filters_of_a_projection_are_whole_heads(block: Block) -> None:
    attention = thinned(block, {"heads": pruner("Filters", 0.5)}).attention
    assert (attention.num_heads, attention.head_dim, attention.value_dim) == (1, 4, 4)


@pytest.mark.parametrize("order", [("Filters", "HeadDims"), ("HeadDims", "Filters")])
def test_heads_and_positions_in_one_epoch(block: Block, order: tuple[str, str]) -> None:
    attention = thinned(block, {group: pruner(group, 0.5) for group in order}, strict=True).attention
    assert (attention.num_heads, attention.head_dim, attention.value_dim) == (1, 2, 2)


def test_two_instances_of_one_kind_are_warned_of(block: Block, caplog: pytest.LogCaptureFixture) -> None:
    thinned(block, {"a": pruner("HeadDims", 0.5), "b": pruner("HeadDims", 0.25)})
    assert "'a' prunes 'attention.in_proj_weight' in epoch 0 too; this later policy's mask counts" in caplog.text


def test_masks_of_positions_are_discarded_with_each_minibatch_if_asked(block: Block) -> None:
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    policy = {"pruner": {"instance_name": "it", "args": {"discard_masks_at_minibatch_end": True}}, "epochs": [0]}
    schedule = {"pruners": {"it": pruner("HeadDims", 0.5)}, "policies": [policy]}
    scheduler = dict_config(block, optimizer, schedule, example_inputs=TOKENS)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    assert scheduler.masks["attention.in_proj_weight"].sparsity() == 0.5
    scheduler.on_minibatch_end(0, 0, 1, optimizer)
    assert not scheduler.masks.masked()


def test_a_weight_without_heads_is_refused(block: Block) -> None:
    with pytest.raises(UserError, match="last.weight: HeadDims are positions within the heads of an attention"):
        thinned(block, {"inner": pruner("HeadDims", 0.5, "last.weight")})


def test_without_a_graph_it_is_refused(block: Block) -> None:
    with pytest.raises(UserError, match=r"HeadDims are found by the network's graph, and there is none"):
        thinned(block, {"inner": pruner("HeadDims", 0.5)}, None)


def test_a_budget_takes_heads_and_positions(block: Block, graph: ChannelGraph) -> None:
    dense = sum(parameter.numel() for parameter in block.parameters())
    budget = {"class": "GlobalRankedGroupPruner", "target": "params", "to": 0.4, "max_sparsity": 0.5}
    thinned(block, {"it": {**budget, "weights": ["attention.in_proj_weight"]}})
    attention = block.attention
    assert min(attention.head_dim, attention.value_dim) < 4
    assert sum(parameter.numel() for parameter in block.parameters()) <= 0.4 * dense


def test_a_budget_of_what_has_no_filters_is_a_fault(block: Block) -> None:
    with pytest.raises(UserError, match=r"in_proj_bias': a weight of shape \(24,\) has no groups of kind 'Filters'"):
        thinned(block, {"it": {"class": "GlobalRankedGroupPruner", "weights": ["attention.in_proj*"], "to": 0.4}})


def test_rows_that_two_units_share_are_counted_once(block: Block, graph: ChannelGraph) -> None:
    removed = {group.name: [0] for group in graph.groups(prunable_only=True)}
    counted = parameter_count(graph, block, removed)
    plan_recipe(block, graph, removed).apply(block)
    assert counted == sum(parameter.numel() for parameter in block.parameters())


def test_a_budget_says_how_little_it_leaves_out(graph: ChannelGraph) -> None:
    assert left_out_of_budget(replace(graph, other_macs=6)).endswith("in it: 0.36 % of the network's")
    assert left_out_of_budget(replace(graph, other_macs=0)) == ""

"""From masks to a smaller model: completion, optimizer, refusal, and what must not change."""

import copy
import re

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.channels import channel_graph
from compress.policies.thinning import _source
from compress.thinning.complete import complete_masks, zero_masks
from compress.thinning.current import CurrentGraph
from compress.thinning.proof.inputs import real_inputs
from compress.thinning.recipe import Recipe
from compress.thinning.thin import put_on, remove_units, thin
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.blocks import LiteralView, build, conv


def filter_mask(weight, rows):
    """Rows (filters) masked."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[rows] = False
    return mask


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 6), conv(6, 4), nn.Conv2d(4, 2, 1))


IMAGE = torch.linspace(-1, 1, 2 * 3 * 25).reshape(2, 3, 5, 5)


def test_a_filter_mask_covers_the_whole_unit(chain):
    graph = prunable_graph(chain, IMAGE)
    completion = complete_masks(graph, {"0.0.weight": filter_mask(chain[0][0].weight, [1, 4])}, chain)
    assert completion.removed == {"0.0.weight[0]": [1, 4]}
    kept = {
        name: (~mask).nonzero()[:, -1].unique().tolist() for name, mask in completion.masks.items() if mask.dim() == 1
    }
    assert kept == {"0.0.bias": [1, 4], "0.1.weight": [1, 4], "0.1.bias": [1, 4]}
    assert not completion.masks["1.0.weight"][:, [1, 4]].any()
    assert completion.masks["1.0.weight"][:, [0, 2, 3, 5]].all()


def test_a_masked_channel_is_exactly_zero_where_it_is_read(chain):
    graph = prunable_graph(chain, IMAGE)
    completion = complete_masks(graph, {"0.0.weight": filter_mask(chain[0][0].weight, [1])}, chain)
    put_on(chain, completion.masks)
    for training in (True, False):
        assert not chain.train(training)[0](IMAGE)[:, 1].any()


def test_a_channel_mask_of_the_only_reader_is_enough(chain):
    mask = torch.ones_like(chain[1][0].weight, dtype=torch.bool)
    mask[:, 2] = False
    completion = complete_masks(prunable_graph(chain, IMAGE), {"1.0.weight": mask}, chain)
    assert completion.removed == {"0.0.weight[0]": [2]}


def test_coupled_weights_must_agree():
    model, image = build("residual")
    graph = prunable_graph(model, image)
    masks = {
        "0.weight": filter_mask(model[0].weight, [1, 2]),
        "3.conv2.weight": filter_mask(model[3].conv2.weight, [2, 3]),
    }
    assert complete_masks(graph, masks, model).removed == {"0.weight[0]": [2]}
    del masks["3.conv2.weight"]
    assert complete_masks(graph, masks, model).removed == {"0.weight[0]": [1, 2]}


def test_a_group_is_never_emptied(chain):
    result = thin(chain, IMAGE, {"0.0.weight": torch.zeros_like(chain[0][0].weight, dtype=torch.bool)})
    assert chain[0][0].out_channels == 1
    assert not chain[0][0].weight.any()
    assert "all 6 units are cleared; one stays" in result.notes[0]


def test_pinned_units_stay_and_are_reported(chain):
    result = thin(chain, IMAGE, {"2.weight": filter_mask(chain[2].weight, [0])})
    assert result.removed == {}
    assert "1 cleared units stay, network output" in result.notes[0]


def test_attributes_follow(chain):
    thin(chain, IMAGE, {"0.0.weight": filter_mask(chain[0][0].weight, [0, 5])})
    assert (chain[0][0].out_channels, chain[0][1].num_features, chain[1][0].in_channels) == (4, 4, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, centered=True, momentum=0.5),
    ],
)
def test_optimizer_state_is_cut_and_objects_stay(chain, make):
    optimizer = make(chain.parameters())
    chain(IMAGE).square().mean().backward()
    optimizer.step()
    weight = chain[0][0].weight
    before = {key: value.clone() for key, value in optimizer.state[weight].items() if isinstance(value, torch.Tensor)}
    thin(chain, IMAGE, {"0.0.weight": filter_mask(weight, [1, 3])}, optimizer)
    assert chain[0][0].weight is weight
    assert optimizer.param_groups[0]["params"][0] is weight
    for key, value in before.items():
        cut = value[[0, 2, 4, 5]] if value.dim() == 4 else value
        assert torch.equal(optimizer.state[weight][key], cut)
    assert weight.grad.shape == weight.shape
    optimizer.zero_grad()
    chain(IMAGE).square().mean().backward()
    optimizer.step()


def test_training_goes_on_as_the_masked_model_would():
    """Three steps of the thinned model equal three steps of the masked model whose masks are put on each time."""
    model, image = build("residual")
    masked = copy.deepcopy(model)
    graph = prunable_graph(model, image)
    masks = complete_masks(graph, {"4.conv1.weight": filter_mask(model[4].conv1.weight, [0, 7])}, model).masks
    put_on(masked, masks)
    result = thin(model, image, masks)
    for net, keep in ((model, {}), (masked, masks)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            net.train()(image).square().mean().backward()
            optimizer.step()
            put_on(net, keep)
    for name, parameter in masked.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name).data, result.recipe.slice(name, parameter.data), rtol=1e-9, atol=1e-12
        )


def test_masks_come_back_cut(chain):
    masks = {"0.0.weight": filter_mask(chain[0][0].weight, [1]), "1.0.weight": torch.rand(4, 6, 3, 3) > 0.5}
    result = thin(chain, IMAGE, masks)
    assert torch.equal(result.masks["1.0.weight"], masks["1.0.weight"][:, [0, 2, 3, 4, 5]])
    assert all(result.masks[name].shape == chain.get_parameter(name).shape for name in result.masks)


def test_masks_of_what_is_zero_take_the_bias_along(chain):
    """A filter that a regularizer cleared still has its bias and norm: masking them is a change, and is reported."""
    with torch.no_grad():
        chain[0][0].weight[2] = 0
        chain[0][1].bias[2] = 1
    assert not zero_masks(chain)["0.0.weight"][2].any()
    result = thin(chain.eval(), IMAGE, zero_masks(chain))
    assert result.removed == {"0.0.weight[0]": [2]}
    assert result.masking_change > 1e-4
    assert result.difference < 1e-4


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_refusal_names_the_place_and_changes_nothing():
    torch.manual_seed(0)
    model, image = LiteralView(), torch.randn(2, 3, 8, 8)
    model.second.eval()
    before, state = snapshot(model), torch.get_rng_state()
    graph = channel_graph(model, image)
    group = graph.groups_of("second.0.weight")[0]
    with pytest.raises(
        UserError, match=r"was not thinned and is unchanged: in the model's own forward: shape '\[-1, 320\]'"
    ):
        remove_units(model, graph, {group.name: [0]}, image)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.second[0].out_channels == 5
    assert model.training
    assert not model.second.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_silent_difference_is_refused(chain):
    """The proof itself: a graph that forgets a coupling is caught by numbers, not by shapes."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(self.first(x)) / self.first.out_channels

    model = Weighted()
    graph = channel_graph(model, IMAGE)
    with pytest.raises(UserError, match="a number in div follows the width: 6 becomes 5"):
        remove_units(model, graph, {"first.weight[0]": [0]}, IMAGE)
    assert model.first.out_channels == 6


def test_a_literal_view_pins_what_is_behind_it():
    graph = prunable_graph(LiteralView(), torch.randn(2, 3, 8, 8))
    assert [group.name for group in graph.groups(prunable_only=True)] == ["first.0.weight[0]"]
    assert "a trial showed that its size is fixed in the code" in graph.why_pinned("second.0.weight")[0]


def test_layer_norm_keeps_its_width_for_the_statistics():
    model, inputs = build("transformer")
    graph = prunable_graph(model, inputs)
    (group,) = graph.groups_of("0.weight")
    result = remove_units(model, graph, {group.name: [0]}, inputs)
    assert model[1].norm1.normalized_shape == (11,)
    assert model[1].norm1.full_width == 12
    assert result.exact


def test_the_dropout_of_a_block_is_not_drawn_in_the_proof(chain):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Dropout(0.5), nn.Conv2d(6, 2, 1))
    assert thin(model, IMAGE, {"0.weight": filter_mask(model[0].weight, [1])}).difference < 1e-5


def test_masks_of_nothing_are_errors(chain):
    with pytest.raises(UserError, match=r"a mask is named '0.0.wight', and the model has no such parameter"):
        thin(chain, IMAGE, {"0.0.wight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(UserError, match=r"the mask of 0.0.weight has shape \(6,\), the parameter \(6, 3, 3, 3\)"):
        thin(chain, IMAGE, {"0.0.weight": torch.ones(6, dtype=torch.bool)})


def test_a_recipe_for_another_model_is_refused(chain):
    recipe = Recipe({"0.0.weight": {0: torch.arange(4)}}, {"0.0.weight": {0: 7}})
    with pytest.raises(UserError, match=r"0.0.weight should have size 7 in dimension 0 and has shape \(6, 3, 3, 3\)"):
        recipe.apply(chain)
    with pytest.raises(UserError, match="it has no module 'nowhere'"):
        Recipe(attributes={"nowhere": {"groups": 1}}).apply(chain)


def test_a_model_that_does_not_run_is_named(chain):
    graph = channel_graph(chain, IMAGE)
    with pytest.raises(UserError, match=r"Sequential does not run on the example inputs: .* \(in '0.0'\)"):
        remove_units(chain, graph, {"0.0.weight[0]": [0]}, torch.randn(2, 5, 5, 5))


def test_real_inputs_are_two_to_four_samples_that_differ():
    (one,) = real_inputs(torch.zeros(1, 3, 4))
    (many,) = real_inputs(torch.randn(9, 3, 4))
    tokens, state = real_inputs((torch.tensor([[1, 2]]), torch.full((3, 4), float("nan"))))
    assert one.shape == (2, 3, 4)
    assert not torch.equal(one[0], one[1])
    assert many.shape == (4, 3, 4)
    assert tokens.tolist() == [[1, 2]]
    assert state.isfinite().all()


def test_a_group_that_stays_is_refused_with_its_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = prunable_graph(model, IMAGE)
    for name, reason in (("2.weight[0]", "network output"), ("0.weight[1]", "coupled to a tensor of fixed size")):
        with pytest.raises(UserError, match=rf"{re.escape(name)}' cannot lose units: {reason}"):
            remove_units(model, graph, {name: [0]}, IMAGE)
    assert remove_units(model, graph, {"2.weight[0]": [], "0.weight[0]": [1]}, IMAGE).removed["0.weight[0]"] == [1]


class Remade(nn.Module):
    """For longer inputs the table is made anew; no example shows it, and no proof on examples either."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("table", torch.rand(8, 8))

    def forward(self, x):
        if x.shape[1] > len(self.table):
            self.table = torch.arange(x.shape[1] * 8).view(-1, 8).sin() * self.table.shape[1]
        return self.last(self.first(x) + self.table[: x.shape[1]])


class Projects(nn.Module):
    """The training loop calls `project`, by a number that nothing sets; no example call does."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.width = nn.Linear(5, 8), nn.Linear(8, 3), 8

    def forward(self, x):
        return self.last(self.first(x))

    def project(self, x):
        return self.first(x).sum(-1) / self.width


@pytest.mark.parametrize("allow_inexact", [False, True])
@pytest.mark.parametrize(("model", "name", "reason"), [
    (Remade(), "first.weight[0]", "make table anew"),
    (Projects(), "first.weight[0]", r"project\(\), which no example call runs"),
])  # fmt: skip
def test_a_group_that_stays_for_what_no_proof_sees_is_refused(model, name, reason, allow_inexact):
    inputs, before = torch.randn(2, 6, 5), copy.deepcopy(model.state_dict())
    graph = prunable_graph(model, inputs, allow_inexact)
    with pytest.raises(UserError, match=rf"{re.escape(name)}' cannot lose units: .*{reason}"):
        remove_units(model, graph, {name: [1, 4]}, inputs, allow_inexact=allow_inexact)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("masked", [True, False])
def test_the_optimizer_of_another_network_is_refused(chain, masked):
    other = torch.optim.SGD(copy.deepcopy(chain).parameters(), 0.1, momentum=0.9)
    masks = {"0.0.weight": filter_mask(chain[0][0].weight, [1])} if masked else None
    before = [parameter.shape for parameter in chain.parameters()]
    with pytest.raises(UserError, match=r"none of which is one of Sequential's.*Nothing was removed"):
        thin(chain, IMAGE, masks, other)
    assert [parameter.shape for parameter in chain.parameters()] == before


def test_an_optimizer_of_two_networks_is_cut_for_its_own(chain):
    both = torch.optim.SGD([*copy.deepcopy(chain).parameters(), *chain.parameters()], 0.1)
    thin(chain, IMAGE, {"0.0.weight": filter_mask(chain[0][0].weight, [1])}, both)
    assert chain[0][0].out_channels == 5


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.rand(2, 3, 4, 4), "the example inputs"),
        (
            torch.rand(1, 3, 4, 4),
            "the example inputs, and in training mode on random ones, as they hold a",
        ),
        (torch.zeros(2, 3, 4, 4), "random inputs (no training batch was at hand)"),
    ],
)
def test_what_a_proof_ran_on_is_said_as_it_was(inputs, words):
    current = CurrentGraph(nn.Conv2d(3, 4, 1), inputs)
    assert _source(current, inputs).removesuffix(" single sample") == words


def test_inference_mode_is_refused(chain):
    with torch.inference_mode(), pytest.raises(UserError, match=r"can never be trained; call it outside.*Nothing was"):
        thin(chain, IMAGE, {"0.0.weight": filter_mask(chain[0][0].weight, [1])})
    assert not chain[0][0].weight.is_inference()
    assert chain[0][0].out_channels == 6

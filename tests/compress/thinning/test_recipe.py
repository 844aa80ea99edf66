"""What optimizers remember is cut with the parameter, or starts anew; the next step works."""

import json
import logging

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.thinning.recipe import Recipe, slice_optimizer
from compress.thinning.thin import thin
from tests.compress.harness import batch, tiny_net

OPTIMIZERS = {
    "SGD": {"lr": 0.01, "momentum": 0.9},
    "Adam": {"amsgrad": True},
    "Adafactor": {},
    "Rprop": {},
}


def step(net, optimizer, number):
    optimizer.zero_grad()
    net(batch(0, number)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_on(name, caplog):
    net = tiny_net()
    optimizer = getattr(torch.optim, name)(net.parameters(), **OPTIMIZERS[name])
    step(net, optimizer, 0)
    kept = torch.tensor([0, 2, 3, 5, 7])
    rows = {
        key: value.index_select(0, kept) if value.dim() and value.shape[0] == 8 else value.clone()
        for key, value in optimizer.state[net.conv1.weight].items()
    }
    mask = torch.zeros_like(net.conv1.weight, dtype=torch.bool).index_fill_(0, kept, True)
    thin(net, batch(0, 0), {"conv1.weight": mask}, optimizer)
    state = optimizer.state[net.conv1.weight]
    assert state.keys() == rows.keys()
    assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(rows[key])) for key in rows)
    step(net, optimizer, 1)
    assert net.conv1.weight.shape[0] == 5
    assert torch.isfinite(net.conv1.weight).all()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_means_over_rows_and_columns_are_cut_where_they_have_the_old_size():
    net = tiny_net()
    optimizer = torch.optim.Adafactor(net.parameters())
    step(net, optimizer, 0)
    mask = torch.ones_like(net.conv1.weight, dtype=torch.bool)
    mask[:3] = False
    thin(net, batch(0, 0), {"conv1.weight": mask}, optimizer)
    shapes = {key: tuple(value.shape) for key, value in optimizer.state[net.conv2.weight].items()}
    assert shapes == {"step": (), "row_var": (4, 5, 3, 1), "col_var": (4, 5, 1, 3)}


def test_state_of_another_form_starts_anew(caplog):
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    step(net, optimizer, 0)
    optimizer.state[net.conv1.weight]["flat"] = torch.zeros(8 * 27)
    optimizer.state[net.conv1.weight]["factors"] = [torch.zeros(8, 8)]
    recipe = Recipe({"conv1.weight": {0: torch.arange(5)}}, {"conv1.weight": {0: 8}})
    slice_optimizer(recipe, net, optimizer)
    assert net.conv1.weight not in optimizer.state
    assert "momentum_buffer" in optimizer.state[net.conv2.weight]
    assert "SGD state of conv1.weight starts anew: its flat, factors cannot be cut" in caplog.text


@pytest.mark.parametrize("kept", [[0, 1, 1], [2, 1, 0], [0, 9]])
def test_a_recipe_that_repeats_or_reorders_channels_is_damaged(kept: list[int]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    recipe = Recipe({"0.weight": {0: torch.tensor(kept)}}, {"0.weight": {0: 8}})
    with pytest.raises(UserError, match=r"damaged: it keeps of 0\.weight other than ascending indices in \[0, 8\)"):
        recipe.apply(net)
    assert net[0].weight.shape[0] == 8


def test_a_recipe_is_plain_data_that_json_keeps():
    net = tiny_net()
    mask = torch.ones_like(net.conv1.weight, dtype=torch.bool)
    mask[[1, 4]] = False
    recipe = thin(net, batch(0, 0), {"conv1.weight": mask}).recipe
    given = recipe.to_dict()
    for data in (given, json.loads(json.dumps(given))):
        again = Recipe.from_dict(data)
        assert again.to_dict() == given
        assert again.attributes == recipe.attributes
        fresh = again.apply(tiny_net())
        fresh.load_state_dict(net.state_dict())
        torch.testing.assert_close(fresh.eval()(batch(0, 0)), net.eval()(batch(0, 0)))


def test_a_recipe_of_an_older_file_has_tensors():
    old = {"kept": {"w": {0: torch.tensor([0, 2])}}, "sizes": {"w": {0: 3}}, "attributes": {}, "headed": []}
    assert Recipe.from_dict(old).to_dict()["kept"] == {"w": {0: [0, 2]}}


def test_a_recipe_of_other_than_whole_numbers_is_damaged():
    with pytest.raises(UserError, match="damaged: it keeps of w other than whole numbers"):
        Recipe.from_dict({"kept": {"w": {0: [0, "2"]}}, "sizes": {"w": {0: 3}}, "attributes": {}, "headed": []})

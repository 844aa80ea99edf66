"""Weights masked without a write into memory that is the model's."""

import torch
from torch import nn

from compress.thinning.proof.copies import mask_removed, memory_of
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.recipe import Recipe

RECIPE = Recipe(kept={"weight": {0: torch.tensor([0, 2])}, "bias": {0: torch.tensor([0, 2])}}, sizes={})


def test_memory_that_is_the_models_is_not_written_into() -> None:
    net = nn.Linear(4, 3)
    given = [(each.data, each.detach().clone()) for each in net.parameters()]
    assert mask_removed(net, RECIPE, untouched=memory_of(net))
    assert not net.weight[1].any()
    assert not net.bias[1].any()
    assert all(torch.equal(data, value) for data, value in given)


def test_other_memory_is_masked_without_a_copy() -> None:
    net = nn.Linear(4, 3)
    memory = memory_of(net)
    net.weight.data = net.weight.data.double()
    place = net.weight.data_ptr()
    mask_removed(net, RECIPE, untouched=memory)
    assert net.weight.data_ptr() == place
    assert not net.weight[1].any()
    assert net.weight[[0, 2]].all()


def test_what_is_drawn_in_another_type_is_what_is_cast_afterwards() -> None:
    one, other = nn.Linear(300, 300), nn.Linear(300, 300)
    other.load_state_dict(one.state_dict())
    perturb(one, Draw(), torch.float64)
    perturb(other, Draw())
    assert one.weight.dtype == torch.float64
    assert all(torch.equal(a, b.double()) for a, b in zip(one.parameters(), other.parameters(), strict=True))

"""Maskers: exact zeros, copies, state."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.masks import MaskTable, packed, unpacked


def _masked(net: nn.Module) -> MaskTable:
    table = MaskTable(net)
    mask = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    mask[0] = False
    table["0.weight"].set_mask(mask)
    return table


def test_apply_gives_exact_zeros_even_of_nan(net: nn.Module) -> None:
    net[0].weight.data[0] = float("nan")
    table = _masked(net)
    table.after_step()
    assert torch.equal(net[0].weight[0], torch.zeros(3, 3, 3))
    assert table["0.weight"].sparsity() == 0.25


def test_a_weight_that_may_recover_is_shown_masked_and_updated(net: nn.Module) -> None:
    before, table = net[0].weight.detach().clone(), _masked(net)
    table["0.weight"].use_double_copies = True
    table.after_step()
    assert torch.equal(net[0].weight, before)
    assert table.show_masked() == ["0.weight"]
    assert table.show_masked() == []  # it is already
    assert torch.count_nonzero(net[0].weight[0]) == 0
    table.before_step(["0.weight"])
    assert torch.equal(net[0].weight, before)
    table.before_forward(["0.weight"])
    table.make_permanent(["0.weight"])
    table.begin_epoch()
    assert torch.count_nonzero(net[0].weight[0]) == 0
    assert not table["0.weight"].may_recover


def test_a_step_of_another_optimizer_masks_its_own_parameters(net: nn.Module) -> None:
    table = _masked(net)
    table.after_step("1.")
    assert torch.count_nonzero(net[0].weight[0])
    table.after_step("0.")
    assert torch.count_nonzero(net[0].weight[0]) == 0


def test_hide_and_reveal_give_the_values_back(net: nn.Module) -> None:
    before = net[0].weight.detach().clone()
    masker = _masked(net)["0.weight"]
    masker.hide()
    masker.hide()  # twice must not put masked values aside
    assert torch.count_nonzero(net[0].weight[0]) == 0
    masker.reveal()
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("mask", [torch.ones(4, 3, 3, 3), torch.ones(4, dtype=torch.bool)])
def test_a_mask_of_another_form_raises(net: nn.Module, mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be bool and of shape"):
        MaskTable(net)["0.weight"].set_mask(mask)


def test_state_round_trip_drops_masks_that_are_not_in_it(net: nn.Module) -> None:
    state = _masked(net).state_dict()
    other = MaskTable(net)
    other["2.weight"].set_mask(torch.zeros(4, 4, 3, 3, dtype=torch.bool))
    other.load_state_dict(state)
    assert [masker.name for masker in other.masked()] == ["0.weight"]
    assert torch.equal(other["0.weight"].mask, unpacked(state["0.weight"]["mask"]))
    plain = {"0.weight": {**state["0.weight"], "mask": other["0.weight"].mask.clone()}}  # as older files have it
    third = MaskTable(net)
    third.load_state_dict(plain)
    assert torch.equal(third["0.weight"].mask, other["0.weight"].mask)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 5), (2, 3, 3, 3), (0,)])
def test_a_saved_mask_has_a_bit_for_each_element(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    saved = packed(mask)
    assert saved["bits"].numel() == -(-mask.numel() // 8)
    assert torch.equal(unpacked(saved), mask)
    assert packed(None) is unpacked(None) is None
    with pytest.raises(UserError, match="a saved mask of shape .* has .* bytes; the file is damaged"):
        unpacked({**saved, "bits": torch.zeros(9, dtype=torch.uint8)})


def test_masks_of_another_network_are_refused(net: nn.Module) -> None:
    state = _masked(net).state_dict()
    with pytest.raises(UserError, match="parameters that this network lacks: 0.weight"):
        MaskTable(nn.ReLU()).load_state_dict(state)
    with pytest.raises(UserError, match="another network"):
        MaskTable(nn.Sequential(nn.Conv2d(1, 1, 1))).load_state_dict(state)

"""Reductions over channels: those that masked zeros do not change let channels go, the others pin them."""

import pytest
import torch
from torch import nn

from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.twins import Between, numbers, prepared, thinned_alike


def norm_of(order: float) -> nn.Module:
    def function(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x * torch.linalg.vector_norm(x, order, dim=1, keepdim=True).tanh()

    return Between(function)


def free(model: nn.Module) -> list[str]:
    return [group.name for group in prunable_graph(prepared(model), numbers(2, 3, 8, 8)).groups(prunable_only=True)]


@pytest.mark.parametrize("order", [1, 2, float("inf")])
def test_a_norm_whose_value_zeros_do_not_change(order: float) -> None:
    assert free(norm_of(order)) == ["first.weight[0]"]
    thinned_alike(norm_of(order), numbers(2, 3, 8, 8))


@pytest.mark.parametrize("order", [-1, -float("inf")])
def test_a_norm_of_the_smallest_value_pins(order: float) -> None:
    assert free(norm_of(order)) == []


def test_a_number_taken_out_of_a_tensor_scales() -> None:
    model = Between(lambda self, x: x * self.table.sum().item())
    model.register_buffer("table", torch.ones(3))
    assert free(model) == ["first.weight[0]"]


def test_a_norm_called_twice_in_succession_pins() -> None:
    """Its second call reads what is zero no more."""
    model = Between(lambda self, x: self.norm(self.norm(x)))
    model.norm = nn.GroupNorm(1, 8, affine=False)
    assert free(model) == []

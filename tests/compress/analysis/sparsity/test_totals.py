"""Counting zeros."""

import pytest
from torch import nn

from compress.analysis.sparsity.totals import Sparsity


def test_fractions_are_of_elements_not_of_layers(net: nn.Module) -> None:
    net[0].weight.data[:2] = 0  # 54 of 108
    net[5].weight.data[:] = 0  # 8 of 8
    found = Sparsity.of(net, ["0.weight", "5.weight", "gone.weight"])
    assert found.weights == {"0.weight": 0.5, "5.weight": 1.0}
    assert found.scheduled == pytest.approx(62 / 116)
    total = sum(p.numel() for p in net.parameters())
    assert found.overall == pytest.approx(62 / total)


def test_nothing_scheduled_is_zero(net: nn.Module) -> None:
    assert Sparsity.of(net, []).scheduled == 0.0

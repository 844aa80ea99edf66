"""Rounding that training mode blows up is not a fault of a removal, as in EfficientViT at 64 pixels."""

import torch
from torch import nn

from compress.thinning.thin import remove_units
from compress.thinning.trials.trial import prunable_graph


def test_a_batch_norm_over_two_nearly_equal_numbers_does_not_hold_its_channels():
    """Samples that differ by 1e-10 keep six digits of float64 once their mean is gone."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 2, 1, bias=False)
    model = nn.Sequential(*layers).double()
    images = torch.randn(1, 3, 1, 1).double() + 1e-10 * torch.randn(2, 3, 1, 1).double()
    graph = prunable_graph(model, images)
    removed = {group.name: list(range(group.units // 3)) for group in graph.groups(prunable_only=True)}
    result = remove_units(model, graph, removed, images)
    assert set(result.removed) == set(removed) == {"0.weight[0]", "1.weight[0]"}
    assert not result.notes

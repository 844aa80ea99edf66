"""Estimated statistics against those of the batches, computed apart; everything else stays as it was."""

import pytest
import torch
from torch import nn

from compress.calibration.batch_norm import reestimate_batch_norm


def test_statistics_are_the_means_over_batches_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, track_running_stats=False)
    )
    network[0].eval()
    network[1].running_mean.fill_(9.0)
    batches = [5 + 2 * torch.randn(4, 3, 5, 5) for _ in range(3)]
    assert reestimate_batch_norm(network, batches) == 1
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(network[1].running_mean, means)
    torch.testing.assert_close(network[1].running_var, variances)
    assert network[1].momentum == pytest.approx(0.3)
    assert [module.training for module in network] == [False, True, True]
    assert reestimate_batch_norm(nn.Linear(2, 2), batches) == 0

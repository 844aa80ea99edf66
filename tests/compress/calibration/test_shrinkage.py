"""The shrinkage intensity against the paper's sums written out, and what it is for: few samples of many inputs."""

import numpy as np
import pytest
import torch

from compress.calibration.shrinkage import Spread, rows_of_samples, shrunk


def intensity(samples: torch.Tensor) -> float:
    """Of (samples, positions, inputs) with mean zero, entry by entry."""
    each = np.einsum("spi,spj->sij", samples.numpy(), samples.numpy()) / samples.shape[1]
    off = ~np.eye(samples.shape[2], dtype=bool)
    variance = each.var(0, ddof=1)[off] / len(each)
    return float(variance.sum() / (each.mean(0)[off] ** 2).sum())


@pytest.mark.parametrize("positions", [1, 3, 20])
def test_the_intensity_is_the_variance_of_the_covariances_over_their_squares(positions: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(12, positions, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    x -= x.mean((0, 1))
    spread = Spread()
    spread.add(x)
    covariance = x.flatten(0, 1).T @ x.flatten(0, 1) / (12 * positions)
    assert spread.intensity(covariance) == pytest.approx(min(1.0, intensity(x)), rel=1e-9)


def test_minibatches_add_up() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    x = torch.cat([x - x.mean((0, 1)), x.flip(0) - x.mean((0, 1))])  # each half has mean zero
    covariance, found = x.flatten(0, 1).T @ x.flatten(0, 1) / 48, []
    for size in (8, 4):
        spread = Spread()
        for batch in x.split(size):
            spread.add(batch)
        found.append(spread.intensity(covariance))
    assert found[0] == pytest.approx(found[1])


def test_chance_is_not_believed_and_what_holds_in_each_sample_is() -> None:
    torch.manual_seed(0)
    x = torch.randn(10, 1, 40)
    found = []
    for each in (x, x[..., :1].expand(10, 1, 40) * torch.linspace(1, 2, 40)):
        spread, rows = Spread(), each.flatten(0, 1) - each.mean((0, 1))
        spread.add(each)
        found.append(spread.intensity(rows.T @ rows / 10))
    assert found[0] > 0.7
    assert found[1] < 0.3
    alone = Spread()
    alone.add(x[:1])
    assert alone.intensity(torch.ones(40, 40)) == 0.0  # one sample says nothing of others


def test_means_and_variances_stay() -> None:
    torch.manual_seed(0)
    x = 3 + torch.randn(50, 4, dtype=torch.float64)
    mean = x.mean(0)
    moments = x.T @ x / 50
    wanted = np.cov(x.numpy().T, bias=True) * np.where(np.eye(4, dtype=bool), 1, 0.75)
    np.testing.assert_allclose(shrunk(moments, mean, 0.25) - torch.outer(mean, mean), wanted, atol=1e-12)


def test_rows_stay_with_their_sample() -> None:
    rows = torch.arange(24.0).reshape(12, 2)
    assert torch.equal(rows_of_samples(rows, 3, 100), rows.reshape(3, 4, 2))
    assert torch.equal(rows_of_samples(rows, 3, 6), rows.reshape(3, 4, 2)[:, ::2])
    assert rows_of_samples(rows, 5, 100).shape == (1, 12, 2)

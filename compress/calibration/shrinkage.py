"""How far second moments of few samples are to be believed: `Spread`.

Paper: Schäfer & Strimmer 2005, A Shrinkage Approach to Large-Scale Covariance Matrix Estimation, section 2.4 (the
covariances move towards zero, the variances stay). Its intensity is what the estimated covariances vary by, over their
squares:

    x1 x2 = (1, 1) in two samples: the covariance is 1 and its variance 0, so the intensity is 0;
    x1 x2 = (2, 0): the covariance is 1, but its variance ((2-1)^2 + (0-1)^2) / 1 / 2 = 1: chance, the intensity is 1.

Unlike there, a sample is many positions: they are neighbours in one image, and only samples are independent.
"""

import torch
from torch import Tensor

from compress.parameters import widened


def rows_of_samples(rows: Tensor, samples: int, most: int) -> Tensor:
    """(samples * positions, inputs) -> (samples, positions, inputs), every so many positions of each sample.

    Args:
        rows: sample after sample.
        samples: how many; one, where the rows cannot be told apart.
        most: rows that are left, about.
    """
    samples = samples if samples and len(rows) % samples == 0 else 1
    split = rows.reshape(samples, -1, rows.shape[1])
    return split[:, :: max(1, -(-len(rows) // most))]


class Spread:
    """How much the covariances of a layer's inputs vary from sample to sample, gathered over minibatches."""

    def __init__(self) -> None:
        self._center: Tensor | None = None  # of the first minibatch, near enough to the mean
        self._power, self._samples = 0.0, 0

    def add(self, rows: Tensor) -> None:
        """Of a minibatch, (samples, positions, inputs)."""
        if self._center is None:
            self._center = rows.mean((0, 1))
        x = widened(rows - self._center)
        samples, positions, inputs = x.shape
        gram = x @ x.mT if positions < inputs else x.mT @ x  # of equal norms
        every, own = gram.double().square().sum(), x.double().square().mean(1).square().sum()
        self._power += float(every) / positions**2 - float(own)
        self._samples += samples

    def intensity(self, covariance: Tensor) -> float:
        """Share of the covariances that noise would explain, [0, 1]; 0 where there is one sample only.

        Args:
            covariance: mean over all samples, (inputs, inputs).
        """
        signal = float(covariance.square().sum() - covariance.diagonal().square().sum())
        if self._samples < 2 or signal <= 0:
            return 0.0
        variance = (self._power / self._samples - signal) / (self._samples - 1)
        return min(1.0, max(0.0, variance / signal))


def shrunk(moments: Tensor, mean: Tensor, intensity: float) -> Tensor:
    """Second moments, (inputs, inputs), whose covariances are smaller by a share; means and variances stay."""
    covariance = moments - torch.outer(mean, mean)
    return moments - intensity * (covariance - torch.diag(covariance.diagonal()))

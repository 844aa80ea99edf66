"""Calibration data without what nothing can be computed from, and what is said of data that say nothing."""

import logging
from typing import Any

import pytest
import torch

from compress.calibration.samples import finite_samples

ONE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("batches", "why"),
    [
        ([torch.zeros(4, 3, 4, 4)], "all 4 samples are equal"),
        ([ONE.repeat(4, 1, 1, 1), (ONE, 1)], "all 5 samples are equal"),
        ([torch.arange(6).repeat(3, 1)], "all 3 samples are equal"),
        ([torch.rand(4, 1, 1, 1).expand(4, 3, 4, 4)], "each of 4 samples is one value throughout"),
        ([torch.full((1, 3, 4, 4), 0.5)], "each of 1 samples is one value throughout"),
    ],
)
def test_data_that_say_nothing_are_warned_of(batches: list[Any], why: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert finite_samples(batches) == batches
    (record,) = caplog.records
    assert why in record.getMessage()


@pytest.mark.parametrize(
    "batches", [[ONE], [torch.randn(4, 3)], [torch.rand(4, 1)], [ONE, 2 * ONE], [{"x": ONE}], [torch.arange(5)], []]
)
def test_other_data_are_not(batches: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        finite_samples(batches)
    assert not caplog.records

"""The rows that say whether networks differ: which seeds are paired."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from apputils.compare.candidate import Candidate
from apputils.compare.differences import difference_rows


def candidate(name: str, seeds: tuple[int, ...], gain: float = 0.0) -> Candidate:
    """A group whose scores are those of its seeds and images, whatever order they stand in."""
    scores = np.array([[np.sin(97 * seed + 13 * image) + gain for image in range(8)] for seed in seeds or (0,)])
    return Candidate(name, nn.Identity(), (torch.zeros(1),), {}, scores={"psnr": scores}, seeds=seeds)


def test_the_same_seeds_in_another_order_are_paired_seed_by_seed() -> None:
    first = candidate("a", (0, 1, 2))
    [row] = difference_rows([first, candidate("b", (0, 2, 1), 0.5)], {"psnr": True})
    assert row["paired"]
    assert (row["low"], row["high"]) == pytest.approx((0.5, 0.5))  # paired otherwise, seeds would differ
    [same] = difference_rows([first, candidate("b", (0, 1, 2), 0.5)], {"psnr": True})
    assert (row["low"], row["high"]) == pytest.approx((same["low"], same["high"]))


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1), (0, 1, 3), (0, 1, 2, 3)])
def test_other_seeds_are_not_paired(seeds: tuple[int, ...]) -> None:
    [row] = difference_rows([candidate("a", (0, 1, 2)), candidate("b", seeds)], {"psnr": True})
    assert not row["paired"]


def test_two_single_networks_have_no_seeds_to_pair() -> None:
    single = candidate("a", ())
    [row] = difference_rows([single, dataclasses.replace(single, name="b")], {"psnr": True})
    assert (row["seeds"], row["paired"]) == (1, True)

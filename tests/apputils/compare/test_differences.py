"""The rows that say whether networks differ: which seeds are paired."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from apputils.compare.candidate import Candidate
from apputils.compare.differences import OTHER_SEEDS, difference_rows, differences_text, flat_row


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


def test_a_gain_of_every_seed_is_shown_for_other_seeds_where_images_disagree_too_much_for_other_images() -> None:
    seeds = np.array([[0.55], [0.50], [0.60], [0.52], [0.58]])
    of_images = np.tile([-4.0, 4.0], 20)
    first = dataclasses.replace(candidate("a", (0, 1, 2, 3, 4)), scores={"top1": np.full((5, 40), 90.0)})
    second = dataclasses.replace(first, name="b", scores={"top1": 90 + seeds + of_images})
    [row] = rows = difference_rows([first, second], {"top1": True})
    assert row["finding"] == "no difference shown"
    assert row["over_seeds"]["finding"] == "better by 0.55 points"
    text = differences_text(rows)
    assert OTHER_SEEDS in text
    assert "better by 0.55 points (+0.48 to +0.62), p 7.5e-06" in text


def test_exact_images_are_said_to_be_left_out_and_a_tiny_difference_is_not_zero() -> None:
    first, second = candidate("a", (0, 1, 2)), candidate("b", (0, 1, 2), 1e-6)
    second.scores["psnr"][0, 3] = np.inf
    rows = difference_rows([first, second], {"psnr": True})
    text = differences_text(rows)
    assert "better by 1e-06 dB" in text
    assert "(up to 1 of them left out, where a score is not finite)" in text
    second.scores["psnr"][:] = np.inf
    assert "unknown: it takes two images" in differences_text(difference_rows([first, second], {"psnr": True}))


def test_single_networks_say_nothing_of_other_seeds() -> None:
    rows = difference_rows([candidate("a", ()), candidate("b", (), 0.5)], {"psnr": True})
    assert rows[0]["over_seeds"] is None
    assert OTHER_SEEDS not in differences_text(rows)


def test_a_sheet_has_one_value_in_each_cell() -> None:
    [row] = difference_rows([candidate("a", (0, 1, 2)), candidate("b", (0, 1, 2), 0.5)], {"psnr": True})
    flat = flat_row(row)
    assert not [value for value in flat.values() if isinstance(value, dict | list | tuple)]
    assert flat["other_seeds_low"] == row["over_seeds"]["low"]
    assert flat["other_seeds"].startswith("better by 0.50 dB")

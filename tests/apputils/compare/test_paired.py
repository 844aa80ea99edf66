"""Intervals of differences: against scipy where it knows them, and how often they claim what is not there."""

import math

import numpy as np
import pytest
from scipy import stats

from apputils.compare.paired import CONFIDENCE, mean_interval, paired_difference


def scores(draw: np.random.Generator, seeds: int, images: int, gain: float = 0.0) -> np.ndarray:
    """PSNR-like: images differ by much, seeds by a little, and each pair of both a little more."""
    hard = np.random.default_rng(7).normal(30, 3, images)  # the same images for all
    of_seed, of_both = draw.normal(0, 0.05, (seeds, 1)), draw.normal(0, 0.1, (seeds, images))
    return np.asarray(hard + of_seed + of_both + gain)


def test_one_seed_is_scipys_paired_t_interval() -> None:
    draw = np.random.default_rng(0)
    first, second = scores(draw, 1, 40), scores(draw, 1, 40, 0.05)
    found = paired_difference(first, second)
    expected = stats.ttest_rel(second[0], first[0]).confidence_interval(CONFIDENCE)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_image_is_scipys_paired_t_interval_over_seeds_and_welchs_where_they_do_not_pair() -> None:
    draw = np.random.default_rng(0)
    first, second = scores(draw, 5, 1), scores(draw, 5, 1, 0.2)
    paired = stats.ttest_rel(second[:, 0], first[:, 0]).confidence_interval(CONFIDENCE)
    found = paired_difference(first, second)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=1e-12)
    welch = stats.ttest_ind(second[:, 0], first[:4, 0], equal_var=False).confidence_interval(CONFIDENCE)
    found = paired_difference(first[:4], second)
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high), abs=1e-12)
    assert not found.paired


@pytest.mark.parametrize(("seeds", "images"), [(1, 100), (2, 30), (3, 8), (5, 8), (5, 400)])
@pytest.mark.parametrize("pair", [True, False])
def test_equal_groups_claim_a_difference_in_at_most_five_percent_of_two_hundred_cases(
    seeds: int, images: int, pair: bool
) -> None:
    draw = np.random.default_rng(1)
    many = scores(draw, 40, images) if seeds > 1 else None
    claims = 0
    for _ in range(200):
        if many is None:  # one seed: its own part of the score is no noise between images, so it is left out
            hard = np.random.default_rng(7).normal(30, 3, (1, images))
            first, second = (hard + draw.normal(0, 0.1, (1, images)) for _ in range(2))
        else:
            chosen = draw.permutation(len(many))
            first, second = many[chosen[:seeds]], many[chosen[seeds : 2 * seeds]]
        claims += paired_difference(first, second, pair).shown
    assert claims <= 10


def test_a_difference_that_is_there_is_shown_although_images_differ_by_sixty_times_as_much() -> None:
    draw = np.random.default_rng(2)
    shown = [paired_difference(scores(draw, 5, 30), scores(draw, 5, 30, 0.2)).shown for _ in range(50)]
    assert sum(shown) >= 45


def test_right_and_wrong_answers_of_one_seed() -> None:
    """Accuracy, percent: of 1,000 images the second answers 40 more and 10 fewer."""
    first = np.repeat([[100.0, 0.0]], [700, 300], axis=1)
    second = first.copy()
    second[0, :10], second[0, 700:740] = 0.0, 100.0
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(3.0)
    assert found.shown
    assert 0 < found.low < 3 < found.high


def test_what_cannot_be_known_is_infinite_and_what_is_equal_is_no_difference() -> None:
    one = np.array([[30.0]])
    assert math.isinf(paired_difference(one, one + 1).high)
    assert not paired_difference(one, one + 1).shown
    same = np.arange(10.0).reshape(2, 5)
    assert not paired_difference(same, same.copy()).shown
    with pytest.raises(ValueError, match="not of the same images"):
        paired_difference(same, same[:, :3])


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.array([30.1, 30.2, 29.9, 30.0])
    mean, deviation, low, high = mean_interval(values)
    expected = stats.t.interval(CONFIDENCE, 3, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert (mean, deviation) == pytest.approx((30.05, values.std(ddof=1)))
    assert math.isnan(mean_interval(values[:1])[1])

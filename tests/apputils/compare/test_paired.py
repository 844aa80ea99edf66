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


def test_one_image_is_scipys_paired_t_interval_over_seeds_and_banerjees_where_they_do_not_pair() -> None:
    draw = np.random.default_rng(0)
    first, second = scores(draw, 5, 1), scores(draw, 5, 1, 0.2)
    paired = stats.ttest_rel(second[:, 0], first[:, 0]).confidence_interval(CONFIDENCE)
    whole = paired_difference(first, second)
    found = whole.over_seeds
    assert found is not None
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=1e-12)
    assert math.isinf(whole.high)  # of other images one says nothing
    assert not whole.shown
    whole = paired_difference(first[:4], second)
    found = whole.over_seeds
    assert found is not None
    halves = [np.diff(stats.t.interval(CONFIDENCE, len(x) - 1, scale=stats.sem(x)))[0] / 2
              for x in (first[:4, 0], second[:, 0])]  # fmt: skip
    assert (found.high - found.low) / 2 == pytest.approx(np.hypot(*halves), abs=1e-12)
    assert not whole.paired


@pytest.mark.parametrize(("seeds", "images", "of_seed", "of_both"), [
    ((1, 1), 100, 0.0, 0.1), ((2, 2), 20, 1.0, 0.1), ((2, 2), 20, 0.3, 0.3), ((2, 2), 100, 0.1, 1.0),
    ((3, 3), 8, 0.05, 0.1), ((3, 3), 100, 0.1, 1.0), ((5, 5), 40, 0.3, 0.3), ((2, 5), 20, 1.0, 0.1),
    ((2, 10), 20, 0.3, 0.3), ((3, 8), 20, 1.0, 0.1),
])  # fmt: skip
@pytest.mark.parametrize("pair", [True, False])
def test_equal_groups_claim_a_difference_in_no_more_than_the_two_percent_of_cases_that_are_promised(
    seeds: tuple[int, int], images: int, of_seed: float, of_both: float, pair: bool
) -> None:
    draw, hard = np.random.default_rng(1), np.random.default_rng(7).normal(30, 3, images)

    def group(size: int) -> np.ndarray:
        return np.asarray(hard + draw.normal(0, of_seed, (size, 1)) + draw.normal(0, of_both, (size, images)))

    found = [paired_difference(group(seeds[0]), group(seeds[1]), pair) for _ in range(500)]
    assert sum(each.shown for each in found) <= 20  # of 500 at 2 %: more than that is one chance in a thousand
    assert sum(each.over_seeds is not None and each.over_seeds.shown for each in found) <= 20


def test_groups_whose_seeds_differ_by_unlike_amounts_claim_no_more() -> None:
    draw = np.random.default_rng(1)
    pairs = ((draw.normal(30, 1, (2, 1)), draw.normal(30, 0.1, (5, 1))) for _ in range(500))
    assert (
        sum(paired_difference(first + np.zeros(9), second + np.zeros(9), False).shown for first, second in pairs) <= 20
    )


def test_other_seeds_on_these_images_are_scipys_paired_t_test_over_seeds() -> None:
    draw = np.random.default_rng(3)
    first, second = scores(draw, 5, 30), scores(draw, 5, 30, 0.2)
    found = paired_difference(first, second).over_seeds
    expected = stats.ttest_rel(second.mean(1), first.mean(1))
    interval = expected.confidence_interval(CONFIDENCE)
    assert found is not None
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, expected.pvalue), abs=1e-12)
    assert found.by_seed == pytest.approx(second.mean(1) - first.mean(1))
    assert paired_difference(first[:1], second[:1]).over_seeds is None  # nothing is known of other seeds
    unpaired = paired_difference(first, second, False).over_seeds
    assert unpaired is not None
    assert (unpaired.p, unpaired.by_seed) == (None, None)
    assert unpaired.shown == (not unpaired.low <= 0 <= unpaired.high)


@pytest.mark.parametrize("pair", [True, False])
def test_intervals_can_be_computed_again_from_their_parts(pair: bool) -> None:
    draw = np.random.default_rng(4)
    found = paired_difference(scores(draw, 4, 20), scores(draw, 4, 20, 0.1), pair).facts()

    def half(*of: str) -> float:
        parts = [each for each in found["parts"] if each["of"] in of]
        return float(np.hypot.reduce([each["standard_error"] * stats.t.ppf(0.99, each["degrees"]) for each in parts]))

    assert (found["high"] - found["low"]) / 2 == pytest.approx(half("images", "seeds"))
    assert (found["over_seeds"]["high"] - found["over_seeds"]["low"]) / 2 == pytest.approx(half("seeds"))


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


@pytest.mark.parametrize("exact", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_images_with_a_score_that_is_not_finite_are_left_out(exact: tuple[int, int]) -> None:
    draw = np.random.default_rng(5)
    groups = [scores(draw, 3, 9), scores(draw, 3, 9, 0.3)]
    expected = paired_difference(groups[0][:, :8], groups[1][:, :8])
    for group, is_exact in zip(groups, exact, strict=True):
        group[1, 8] = math.inf if is_exact else math.nan
    found = paired_difference(*groups)
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert (found.images, found.left_out) == (8, 1)


def test_where_no_score_is_finite_nothing_is_shown() -> None:
    nothing = paired_difference(np.full((2, 3), math.inf), np.full((2, 3), math.inf))
    assert not nothing.shown
    assert (nothing.images, nothing.left_out, nothing.over_seeds) == (0, 3, None)


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.array([30.1, 30.2, 29.9, 30.0])
    mean, deviation, low, high = mean_interval(values)
    expected = stats.t.interval(CONFIDENCE, 3, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert (mean, deviation) == pytest.approx((30.05, values.std(ddof=1)))
    assert math.isnan(mean_interval(values[:1])[1])

"""A run that is no better than its trivial baseline: when it is said, and when training diverged."""

import math

import pytest

from engine.saved.learned_nothing import learned_nothing, worse_teachers

GREW = [{"loss": 44.0}, {"loss": 59.8}, {"loss": 94.6}]
FELL = [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]


@pytest.mark.parametrize(
    ("metric", "value", "higher", "said"),
    [
        ("top1", 9.94, True, True), ("top1", 9.0, True, True), ("top1", 9.944, True, True), ("top1", 9.96, True, False),
        ("val_loss", 9.94, False, True), ("val_loss", 9.0, False, False), ("psnr", math.nan, True, True),
    ],
)  # fmt: skip
def test_it_is_said_where_the_shown_gain_is_not_above_zero(metric: str, value: float, higher: bool, said: bool) -> None:
    text = learned_nothing(metric, value, ("majority class", 9.94), higher, FELL)
    assert bool(text) == said
    assert "diverged" not in text


def test_a_loss_that_grew_is_named() -> None:
    text = learned_nothing("top1", 9.94, ("majority class", 9.94), True, GREW)
    assert "top-1 accuracy 9.94 % is no better than that of the trivial baseline (majority class: 9.94 %)" in text
    assert "grew from 44 in the first epoch to 94.6 in the last" in text
    assert "diverged" in learned_nothing("top1", 9.94, ("m", 9.94), True, [*FELL, {"loss": math.nan}])


def test_terms_that_policies_add_to_the_loss_are_not_divergence() -> None:
    history = [{"loss": float(i), "own_loss": 3.0 - i} for i in range(3)]
    assert "diverged" not in learned_nothing("top1", 9.0, ("m", 9.94), True, history)


def test_short_runs_are_not_judged() -> None:
    assert learned_nothing("top1", 0.0, ("m", 9.94), True, GREW[:2]) == ""


def test_a_teacher_that_does_worse_than_its_student_is_named() -> None:
    teachers = {"teacher big": 90.0, "teacher small": 91.2, "dense network (teacher self)": 80.0}
    [text] = worse_teachers("top1", 91.2, teachers, True)
    assert text.startswith("teacher big has top-1 accuracy 90.00 %, worse than the network that it taught (91.20 %)")
    assert worse_teachers("loss", 0.2, {"teacher big": 0.1}, False) == []
    assert len(worse_teachers("loss", 0.1, {"teacher big": 0.2}, False)) == 1

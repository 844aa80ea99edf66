"""Values beside bounds: met, missed, undecided within the noise, and the worst of all."""

import pytest

from compress.goals.goal import Goal
from compress.goals.judge import MISSED, Value, goals_table, judge, shortfall, verdict_of

LATENCY = Goal("latency", at_most=0.5)


@pytest.mark.parametrize(("value", "verdict"), [
    (Value(0.45, noise=0.01), "met"),
    (Value(0.55, noise=0.01), "missed"),
    (Value(0.495, noise=0.01), "undecided"),
    (Value(0.505, noise=0.01), "undecided"),
    (Value(0.5), "met"),
    ("there is no file", "not measured"),
])  # fmt: skip
def test_noise_decides_what_can_be_said(value: Value | str, verdict: str) -> None:
    assert judge(LATENCY, value)["verdict"] == verdict


def test_margins_are_positive_on_the_right_side() -> None:
    assert judge(Goal("psnr", at_least=30), Value(31.5))["margin"] == pytest.approx(1.5)
    assert judge(Goal("psnr", drop_at_most=0.1), Value(0.25))["margin"] == pytest.approx(-0.15)
    assert judge(Goal("file_bytes", at_most=1000), Value(400))["margin"] == 600


def test_the_worst_verdict_is_that_of_all() -> None:
    rows = [{"verdict": each} for each in ("met", "undecided", "not measured", "missed")]
    assert [verdict_of(rows[:end]) for end in (1, 2, 3, 4)] == ["met", "undecided", "not measured", "missed"]


def test_the_table_says_value_bound_margin_noise_and_verdict() -> None:
    rows = [
        judge(LATENCY, Value(0.55, 0.01, 0.5, 0.6, "15 rounds in turns")),
        judge(Goal("file_bytes", at_most=60_000), Value(78_141.0)),
        judge(Goal("psnr", drop_at_most=0.1), "no dense network to compare with"),
    ]
    lines = goals_table(rows).splitlines()
    words = [" ".join(line.split()) for line in lines[2:]]
    assert words == [
        "latency in onnxruntime at most 0.5 0.55 [0.5, 0.6] 0.5 -0.05 ± 0.01 missed",
        "file_bytes at most 60,000 78,141 60,000 -18,141 exact missed",
        "psnr drop at most 0.1 - 0.1 - - not measured",
        "latency in onnxruntime at most 0.5: 15 rounds in turns",
        "psnr drop at most 0.1: no dense network to compare with",
    ]


def test_layers_in_float_are_counted_in_a_runtime_and_may_be_none() -> None:
    goal = Goal("float_layers", at_most=0)
    assert str(goal) == "float_layers in onnxruntime at most 0"
    assert not list(goal.problems())
    assert judge(goal, Value(0.0))["verdict"] == "met"
    assert judge(goal, Value(1.0, note="<last> of 4 quantized layers"))["verdict"] == "missed"
    assert [name for name, _ in Goal("float_layers", at_most=-1).problems()] == ["at_most"]
    assert [name for name, _ in Goal("macs", at_most=0).problems()] == ["at_most"]


def test_a_bound_of_0_is_missed_in_its_own_unit() -> None:
    """As a share of it a missed millibel outweighed ten times the time."""
    rows = [{"margin": -0.001, "bound": 0.0, "verdict": MISSED}, {"margin": -4.5, "bound": 0.5, "verdict": MISSED}]
    assert [shortfall({"rows": [row]}) for row in rows] == [0.001, 9.0]

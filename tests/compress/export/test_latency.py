"""Times are medians of turns, ratios are of the same round."""

import math

import pytest
import torch
from torch import nn

from compress.export.latency import MOST_TIMES, measure_latency, torch_threads, torch_way
from compress.export.timing import Timed, Timing, time_rows, times_table
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What measuring takes for the time."""
    clock = Clock()
    monkeypatch.setattr("compress.export.latency.time", clock)
    return clock


def test_ratios_and_turns(clock: Clock) -> None:
    order: list[str] = []

    def way(name: str, seconds: float) -> None:
        order.append(name)
        clock.sleep(seconds)

    ways = {"a": lambda: way("a", 0.004), "b": lambda: way("b", 0.012)}
    found = measure_latency(ways, rounds=4, seconds=0.001)
    assert found["a"].ratio == 1.0
    assert found["b"].ratio == pytest.approx(3.0)
    assert found["b"].milliseconds == pytest.approx(12)
    assert found["b"].ratio_low == pytest.approx(found["b"].ratio_high)
    assert found["a"].low == pytest.approx(found["a"].high)
    assert "".join(order[-8:]) == "abbaabba"  # who begins changes from round to round
    assert found["a"].to_dict()["rounds"] == 4


def test_a_turn_takes_as_long_as_asked(clock: Clock) -> None:
    found = measure_latency({"a": lambda: clock.sleep(0.001)}, rounds=2, seconds=0.02)
    assert found["a"].calls == 20


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one way and two rounds"):
        measure_latency({}, 5)
    with pytest.raises(ValueError, match="rounds should be a whole number, >= 2"):
        measure_latency({"a": lambda: None}, 1)


def test_a_network_is_timed_in_eval_mode_without_gradients() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    forward = torch_way(net, (torch.ones(1, 2),))
    output = forward()
    assert isinstance(output, torch.Tensor)
    assert not output.requires_grad
    assert torch.equal(output, net[0](torch.ones(1, 2)))


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_each_is_timed_where_it_can_run_and_beside_the_first_there(clock: Clock) -> None:
    small, large = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    for layer in (small, *large):
        layer.register_forward_hook(lambda *_: clock.sleep(0.001))
    image = (torch.rand(1, 3, 64, 64),)
    subjects = [Timed("a", small, image, None), Timed("b", large, image, None), Timed("c", None, image, None)]
    (first, second, third), how = time_rows(subjects, Timing(rounds=3, seconds=0.005, spread=100.0))
    assert (how["rounds"], how["threads"]) == (3, 1)
    assert (first["torch_ratio"], first["torch_ratio_low"], first["onnxruntime_ms"]) == (1.0, 1.0, None)
    assert [second[f"torch_ratio{part}"] for part in ("", "_low", "_high")] == pytest.approx([2.0] * 3)
    assert second["torch_ms"] == pytest.approx(2.0)
    assert set(third.values()) == {None}
    text = times_table([{"name": "b", **second}, {"name": "c", **third}])
    assert f"({second['torch_ratio']:.2f}x)" in text


@pytest.mark.parametrize(("patience", "rounds"), [(0.0, 3), (math.inf, 3 * MOST_TIMES)])
def test_a_machine_that_stays_busy_is_not_waited_for(clock: Clock, patience: float, rounds: int) -> None:
    calls, models = iter(range(1_000_000)), [nn.Linear(2, 2), nn.Linear(2, 2)]
    models[0].register_forward_hook(lambda *_: clock.sleep(0.001))
    models[1].register_forward_hook(lambda *_: clock.sleep(0.004 if next(calls) % 2 else 0.001))
    subjects = [Timed(name, model, (torch.rand(1, 2),), None) for name, model in zip("ab", models, strict=True)]
    _, how = time_rows(subjects, Timing(rounds=3, seconds=1e-6, spread=1e-9, patience=patience))
    assert how["rounds"] == rounds


@pytest.mark.parametrize(("step", "rounds"), [(0.001, 4), (0.0011, 7)])
def test_steady_ratios_end_it_early(clock: Clock, step: float, rounds: int) -> None:
    calls, models = iter(range(1_000_000)), [nn.Linear(2, 2), nn.Linear(2, 2)]
    models[0].register_forward_hook(lambda *_: clock.sleep(0.001))
    models[1].register_forward_hook(lambda *_: clock.sleep(step if next(calls) % 2 else 0.001))
    subjects = [Timed(name, model, (torch.rand(1, 2),), None) for name, model in zip("ab", models, strict=True)]
    assert time_rows(subjects, Timing(rounds=7, seconds=1e-6, least=4))[1]["rounds"] == rounds
    assert time_rows(subjects, Timing(rounds=7, seconds=1e-6))[1]["rounds"] == 7


def test_wide_quartiles_are_measured_longer_up_to_a_bound(clock: Clock) -> None:
    calls = iter(range(1_000_000))

    def uneven() -> None:
        clock.sleep(0.004 if next(calls) % 2 else 0.001)

    ways = {"even": lambda: clock.sleep(0.001), "uneven": uneven}
    assert measure_latency(ways, rounds=3, seconds=1e-6)["uneven"].rounds == 3
    assert measure_latency(ways, rounds=3, seconds=1e-6, spread=1e-9)["uneven"].rounds == 3 * MOST_TIMES
    assert measure_latency(ways, rounds=3, seconds=1e-6, spread=1e9)["uneven"].rounds == 3

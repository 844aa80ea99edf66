"""Times are medians of turns, ratios are of the same round."""

import time

import pytest
import torch
from torch import nn

from apputils.latency import measure_latency, torch_threads, torch_way


def test_ratios_and_turns() -> None:
    order: list[str] = []

    def way(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    ways = {"a": lambda: way("a", 0.004), "b": lambda: way("b", 0.012)}
    found = measure_latency(ways, rounds=4, seconds=0.001)
    assert found["a"].ratio == 1.0
    assert 2.0 < found["b"].ratio < 4.0
    assert found["b"].milliseconds == pytest.approx(12, rel=0.3)
    assert found["b"].ratio_low <= found["b"].ratio <= found["b"].ratio_high
    assert found["a"].low <= found["a"].milliseconds <= found["a"].high
    assert "".join(order[-8:]) == "abbaabba"  # who begins changes from round to round
    assert found["a"].to_dict()["rounds"] == 4


def test_a_turn_takes_as_long_as_asked() -> None:
    found = measure_latency({"a": lambda: time.sleep(0.001)}, rounds=2, seconds=0.02)
    assert 5 <= found["a"].calls <= 20


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one way and two rounds"):
        measure_latency({}, 5)
    with pytest.raises(ValueError, match="at least one way and two rounds"):
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

"""The model of communication against a simulation of the ring, message by message."""

import pytest

from benchmarks.scaling_model import Network, measured, model, ring


def simulated(participants: int, size: float, bandwidth: float, latency: float) -> float:
    """2 (n - 1) rounds, in each of which every participant sends 1 / n of the bytes to its neighbour."""
    seconds = 0.0
    for _ in ("reduce-scatter", "all-gather"):
        for _ in range(participants - 1):
            seconds += latency + size / participants / bandwidth
    return seconds


@pytest.mark.parametrize("participants", [1, 2, 7, 1024])
def test_the_formula_is_the_ring(participants: int) -> None:
    told = ring(participants, 1e8, 3e9, 2e-5)
    assert told == pytest.approx(simulated(participants, 1e8, 3e9, 2e-5), rel=1e-12)


def test_what_is_hidden_costs_nothing_and_the_rest_adds_up() -> None:
    network = Network(bandwidth=1e9, latency=0.0, overlap=0.5, machine_workers=1, inner_bandwidth=1e12)
    assert model(1.0, 1e8, network, 1).efficiency == 1.0
    assert model(1.0, 1e8, network, 2).step == 1.0  # 0.1 s hide behind 0.5 s
    row = model(1.0, 1e9, network, 4)  # 1.5 s, of which 0.5 s hide
    assert (row.communication, row.step, row.efficiency) == pytest.approx((1.5, 2.0, 0.5))


def test_small_messages_are_waited_for() -> None:
    network = Network(1e9, 1e-3, overlap=1.0, machine_workers=2, inner_bandwidth=1e11, small_messages=2)
    told = model(1.0, 1e6, network, 8)  # four machines
    assert told.step == pytest.approx(1.0 + 2 * simulated(4, 0.0, 1e9, 1e-3))
    assert model(1.0, 1e6, network, 2).step == 1.0  # inside a machine the model counts no latency


def test_workers_of_a_machine_share_its_network() -> None:
    network = Network(1e9, 0.0, 0.0, machine_workers=8, inner_bandwidth=1e11)
    assert model(1.0, 1e9, network, 8).communication == pytest.approx(ring(8, 1e9, 1e11, 0.0))
    assert model(1.0, 1e9, network, 32).communication == pytest.approx(ring(8, 1e9, 1e11, 0.0) + ring(4, 1e9, 1e9, 0.0))


def test_the_gradients_are_counted() -> None:
    seconds, size = measured("C2SRCNN", 1, repetitions=1)
    assert seconds > 0
    assert size == 4 * 43_468

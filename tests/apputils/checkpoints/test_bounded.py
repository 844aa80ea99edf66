"""What is built from somebody's numbers ends: neither memory nor time without a bound; numbers have none."""

from typing import Any

import pytest
import torch
from torch import nn

from apputils.checkpoints import bounded as module
from apputils.checkpoints.bounded import OutOfBoundsError, bounded
from apputils.checkpoints.schema import built, plain_arguments
from compress.errors import UserError


def test_a_layer_larger_than_memory_ends_before_it_is_filled() -> None:
    with bounded(), pytest.raises(OutOfBoundsError, match=r"its weights need [\d,]+ GB and more, and this machine's"):
        nn.Linear(1 << 20, 1 << 20, device="meta")


def test_what_was_dropped_or_is_shared_does_not_count() -> None:
    with bounded(memory=9000):
        for _ in range(9):
            network = nn.Linear(32, 32)  # 4,224 bytes
        network.again = network.weight
        nn.LazyLinear(3)
    with bounded(memory=9000), pytest.raises(OutOfBoundsError):
        nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))


def test_a_network_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TENSORS", 20)

    def endless(arguments: dict[str, Any]) -> nn.Module:
        return nn.Sequential(*(nn.PReLU() for _ in range(arguments["depth"])))

    checkpoint = {"network": {"arguments": {"depth": 10**9}}, "model": {"0.weight": torch.zeros(1)}}
    with pytest.raises(UserError, match="cannot be built: it has more than 20 parameters and buffers"):
        built(endless, checkpoint)
    checkpoint["network"]["arguments"]["depth"] = 4
    assert len(list(built(endless, checkpoint).parameters())) == 4


def test_arguments_are_numbers_of_any_size() -> None:
    given = {"seed": 123456, "theta": 5e5, "largest": 2**64 - 1, "sizes": [100_000, {"deep": -1e300}]}
    assert plain_arguments(given) == given
    for value, message in {
        float("nan"): "nan is not a finite number",
        float("-inf"): "-inf is not a finite number",
        10**400: "has more than 64 bits",
        2**64: "18446744073709551616 has more than 64 bits",
    }.items():
        with pytest.raises(ValueError, match=message):
            plain_arguments({"x": value})

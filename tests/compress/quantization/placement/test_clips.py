"""What cuts off a layer's result before anything else reads it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compress.quantization.placement.clips import Clip
from compress.quantization.placement.inputs import read_graph

INF = float("inf")


class Around(nn.Module):
    """A convolution, optionally its BatchNorm, an operation and a second convolution."""

    def __init__(self, operation: Callable[[Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.operation(self.norm(self.a(x))))


def found(network: nn.Module) -> dict[str, Clip]:
    return read_graph(network.eval(), torch.rand(1, 3, 9, 9), ["a", "b"], [], []).clips


@pytest.mark.parametrize(
    ("operation", "ends"),
    [
        (torch.relu, (0, INF)),
        (torch.relu_, (0, INF)),
        (nn.ReLU6(inplace=True), (0, 6)),
        (nn.Hardtanh(), (-1, 1)),
        (lambda x: x.clamp(min=0.5), (0.5, INF)),
        (lambda x: x.clamp(max=2), (-INF, 2)),
        (lambda x: x.clamp_min(0), (0, INF)),
        (nn.SiLU(), None),
        (lambda x: torch.relu(x) + x, None),
        (lambda x: x + 1, None),
        (lambda x: x.clamp(min=torch.zeros(4, 1, 1)), None),
    ],
)
def test_operations(operation: Callable[[Tensor], Tensor], ends: tuple[float, float] | None) -> None:
    for norm in (False, True):
        network = Around(operation, norm)
        expected = {} if ends is None else {"a": Clip("norm" if norm else None, *ends)}
        assert found(network) == expected


def test_a_layer_that_is_called_twice_has_none() -> None:
    class Twice(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))) + self.b(torch.relu(self.a(x + 1)))

    assert found(Twice(torch.relu)) == {}

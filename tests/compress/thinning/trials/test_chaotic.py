"""Deep networks in which rounding grows: what it alone decides does not decide what can go."""

import torch
from torch import Tensor, nn

from compress.thinning.trials.trial import prunable_graph

LAYERS = 9


class Chaotic(nn.Module):
    """Each layer makes a difference some times as large, and sums in another order where it has other channels."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(192, 192, 1, groups=192)  # tried, since whole groups must leave
        self.layers = nn.ModuleList([nn.Conv2d(192, 192, 1) for _ in range(LAYERS)])
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.layers[0](x))
        for layer in self.layers[1:]:
            x = torch.sin(self.gain * layer(x))
        return x


def test_rounding_that_grows_in_single_precision_pins_nothing() -> None:
    graph = prunable_graph(Chaotic(gain=12.0), torch.rand(2, 192, 1, 1))
    free = {name for group in graph.groups(prunable_only=True) for name, _ in group.members}
    assert {f"layers.{place}.bias" for place in range(LAYERS)} - free == {f"layers.{LAYERS - 1}.bias"}

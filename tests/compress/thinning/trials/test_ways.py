"""Views that can be read in two ways, of which the first pins: the second is taken, also for one kind of module."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.thinning.proof.verify import run_only
from compress.thinning.trials import trial
from tests.compress.thinning.twins import numbers, thinned_alike


class RadixSoftmax(nn.Module):
    """Among the parts of each channel; their number is kept, and the channels are what is left (-1)."""

    def __init__(self, radix):
        super().__init__()
        self.radix, self.cardinality = radix, 1

    def forward(self, x):
        x = x.view(x.size(0), self.cardinality, self.radix, -1).transpose(1, 2)
        return x.softmax(1).reshape(x.size(0), -1)


class SplitAttention(nn.Module):
    """ResNeSt's (arXiv 2004.08955): two parts of a grouped convolution, summed with weights that add up to one."""

    def __init__(self, channels, radix=2):
        super().__init__()
        self.radix = radix
        self.conv = nn.Conv2d(channels, channels * radix, 3, padding=1, groups=radix)
        self.fc1, self.fc2 = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, channels * radix, 1)
        self.share = RadixSoftmax(radix)

    def forward(self, x):
        x = self.conv(x).relu()
        batch, both, height, width = x.shape
        x = x.reshape((batch, self.radix, both // self.radix, height, width))
        gap = self.fc2(self.fc1(x.sum(1).mean((2, 3), keepdim=True)).relu())
        shares = self.share(gap).view(batch, -1, 1, 1)
        return (x * shares.reshape((batch, self.radix, both // self.radix, 1, 1))).sum(1)


@pytest.mark.slow
def test_split_attention_loses_channels_of_all_parts_alike():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), SplitAttention(8), nn.Conv2d(8, 2, 1))
    removed, _ = thinned_alike(model, numbers(2, 3, 5, 5), numbers(1, 3, 6, 4))
    assert set(removed) == {"0.weight[0]", "2.conv.weight[0]", "2.fc1.weight[0]"}
    assert (model[2].conv.out_channels, model[2].conv.groups, model[2].fc2.out_channels) == (10, 2, 10)
    assert torch.equal(model[2].share(torch.zeros(1, 10, 1, 1)), torch.full((1, 10), 0.5))


class Viewed(nn.Module):
    """A view of channels: by a number in the code, or by the tensor."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.first, self.last, self.fixed = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), fixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x.view(x.shape[0], 8 if self.fixed else x.shape[1], -1)
        return self.last(x[..., None])


@pytest.mark.parametrize("fixed", [False, True])
def test_the_first_trial_compares_at_once(fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bool] = []
    monkeypatch.setattr(trial, "run_only", lambda *given: runs.append(True) or run_only(*given))
    graph = trial.prunable_graph(Viewed(fixed), torch.rand(2, 3, 4, 4))
    assert bool(graph.groups(prunable_only=True)) is not fixed
    assert not runs  # a pass without comparison is worth it only once something has failed


class Hypercomplex(nn.Module):
    """A weight that is a sum of Kronecker products (arXiv 2102.08597); as many terms as the algebra has dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.algebra, self.terms = nn.Parameter(torch.randn(2, 2, 2)), nn.Parameter(torch.randn(2, 4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        algebra, terms = self.algebra, self.terms  # by names that no reader of the code knows for parameters
        count, rows, columns = algebra.shape[0], terms.shape[1], terms.shape[2]
        weight = torch.einsum("nab,noi->aobi", algebra, terms).reshape(count * rows, count * columns)
        return functional.linear(x, weight)


class Scaled(nn.Module):
    """A layer whose code divides by the size of a weight."""

    def __init__(self, counted: bool = True) -> None:
        super().__init__()
        self.counted = counted
        self.down, self.up = nn.Parameter(torch.randn(6, 12)), nn.Parameter(torch.randn(8, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down = self.down
        width = down.shape[0] if self.counted else len(down)
        return functional.linear(functional.linear(x, down).relu(), self.up) / width**0.5


@pytest.mark.parametrize(
    ("layer", "name"), [(Hypercomplex, "1.algebra"), (Scaled, "1.down"), (lambda: Scaled(False), "1.down")]
)
def test_what_the_size_of_a_weight_decides_is_tried_at_once(layer: Callable[[], nn.Module], name: str) -> None:
    """Else a schedule would mask these and find at its end that they cannot go."""
    model = nn.Sequential(nn.Linear(5, 12), layer(), nn.Linear(8, 3))
    graph = trial.prunable_graph(model, torch.randn(4, 5))
    assert any("a trial without some of it" in reason for reason in graph.why_pinned(name)), graph.describe()

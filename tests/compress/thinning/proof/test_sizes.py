"""Smaller images in the proof: where they are taken, and that a fault which only the given size has is still found."""

import contextlib
import math

import pytest
import torch
from torch import nn

from compress.errors import UserError
from compress.graph.calls import Call
from compress.thinning.proof import verify
from compress.thinning.proof.observe import path
from compress.thinning.proof.sizes import remember, smaller
from compress.thinning.thin import remove_units, thin
from compress.thinning.trials.trial import prunable_graph


def shape(model: nn.Module, *sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    call = Call(tuple(torch.rand(size) for size in sizes))
    (found,) = smaller(model, [call], ("eval", "train"))
    return [tuple(each.shape) for each in found.arguments]


class Both(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.mean() + y.mean()


def test_a_side_keeps_its_remainder() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=32, padding=1))  # on 32 pixels its map is one pixel
    assert shape(net, (2, 3, 360, 640)) == [(2, 3, 104, 96)]
    assert shape(net, (2, 3, 224, 224)) == [(2, 3, 96, 96)]
    assert shape(net, (2, 3, 128, 128)) == [(2, 3, 128, 128)]  # not worth it
    assert shape(net, (2, 3, 8, 4000)) == [(2, 3, 8, 96)]
    assert shape(Both(), (2, 3, 360, 640), (2, 4)) == [(2, 3, 40, 32), (2, 4)]
    assert shape(Both(), (2, 3, 360, 640), (2, 3, 720, 640)) == [(2, 3, 360, 640), (2, 3, 720, 640)]  # two sizes


def test_a_network_of_one_size_keeps_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.Flatten(), nn.Linear(4 * 28 * 28, 2))
    assert shape(net, (2, 3, 224, 224)) == [(2, 3, 224, 224)]


class Tiled(nn.Module):
    """Like a MaxViT: a grid of tiles, and code that refuses images of other sizes; training writes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        if x.shape[-1] % 7:
            raise ValueError("no whole tiles")
        return self.last(x.unflatten(3, (-1, 7)).unflatten(2, (-1, 7)).mean((2, 4)).movedim(1, -1))


def test_buffers_are_put_back_where_a_smaller_image_fails() -> None:
    net = Tiled()
    call = Call((torch.rand(2, 3, 224, 224),))
    remember(net, call, path(net, call, "eval"), call)
    (found,) = smaller(net, [call], ("eval", "train"))
    assert found.arguments[0].shape == (2, 3, 224, 224)
    assert torch.equal(net.norm.running_mean, torch.zeros(8))
    masks = {"first.weight": torch.ones(8, 3, 3, 3, dtype=torch.bool)}
    masks["first.weight"][2] = False
    thin(net, torch.rand(2, 3, 224, 224), masks)
    assert net.first.out_channels == 7


class LargeOnly(nn.Module):
    """Code that goes by its width, on large images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.shape[-1] > 150 and x.shape[1] != 8:
            x = x * 1.5
        return self.last(x)


def test_what_only_the_given_size_shows_is_found() -> None:
    torch.manual_seed(0)
    net = LargeOnly()
    masks = {"first.weight": torch.ones(8, 3, 3, 3, dtype=torch.bool)}
    masks["first.weight"][2] = False
    with pytest.raises(UserError, match=r"first|differ"):
        thin(net, torch.rand(1, 3, 200, 200), masks)
    assert net.first.out_channels == 8


class OtherPath(nn.Module):
    """Code with another path for large images, which today is closed by a zero, or is for training alone."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.first, self.last, self.trained = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), trained
        self.scale = nn.Parameter(torch.full((1, 1, 1), float(trained)))
        self.register_buffer("kept", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.shape[-1] > 150 and (self.training or not self.trained):
            x = x + self.scale * x / math.sqrt(x.shape[1])
        return self.last(x)


@pytest.mark.parametrize("trained", [False, True])
def test_a_path_for_large_images_is_not_left_out(trained: bool) -> None:
    torch.manual_seed(0)
    net = OtherPath(trained)
    assert shape(net, (2, 3, 300, 300)) == [(2, 3, 300, 300)]
    assert torch.equal(net.kept, torch.ones(2))
    masks = {"first.weight": torch.ones(8, 3, 3, 3, dtype=torch.bool)}
    masks["first.weight"][2] = False
    with contextlib.suppress(UserError):
        thin(net, torch.rand(1, 3, 200, 200), masks)
    assert net.first.out_channels == 8


SEEN: list[int] = []
"""Not in the network, where a proof puts lists back."""


class Noting(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(x.shape[-1])
        return super().forward(x)


def test_passes_over_the_whole_image_are_no_more_than_the_comparison_needs() -> None:
    net = Noting(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    graph = prunable_graph(net, torch.rand(2, 3, 200, 200))
    SEEN.clear()
    remove_units(net, graph, {"0.weight[0]": [1]}, torch.rand(2, 3, 200, 200))
    assert SEEN.count(200) == 3  # as it is, masked, thinned
    assert SEEN.count(40) == 5  # is the path the same; in training mode and on other values: masked, thinned


def test_a_comparison_in_float64_runs_no_path_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding in training mode, which float64 decides: as if single precision differed."""
    monkeypatch.setitem(verify.TOLERANCE, torch.float32, -1.0)
    net = Noting(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    graph = prunable_graph(net, torch.rand(2, 3, 200, 200))
    SEEN.clear()
    remove_units(net, graph, {"0.weight[0]": [1]}, torch.rand(2, 3, 200, 200))
    assert SEEN.count(200) == 6  # twice as it is, masked, thinned
    assert SEEN.count(40) == 7  # the path once, training mode twice, other values

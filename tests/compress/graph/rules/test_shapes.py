"""Operations that move channels about, or leave them alone while they mix something else: exact, or pinned by name."""

import random

import pytest
import torch
from torch.nn import functional

from tests.compress.thinning.twins import Between, numbers, thinned_alike

IMAGE, OTHER = (2, 3, 6, 6), (3, 3, 8, 4)


def gated(x):
    left, right = x.chunk(2, 1)
    return left * right


def filled(x):
    out = torch.zeros_like(x)
    out[:, :, ::2] = x[:, :, 1::2].relu()
    return out


def padded_cat(x):
    """A fixed map beside the channels, as of coordinates."""
    return torch.cat([x, torch.ones(x.size(0), 2, *x.shape[2:], dtype=x.dtype)], 1)


def stacked(x):
    both = torch.stack([x, x.relu()], 1)
    first, second = both.unbind(1)
    return first * second


def spectrum(x):
    y = torch.fft.rfft2(x, norm="ortho")
    return torch.fft.irfft2(torch.view_as_complex(torch.view_as_real(y).contiguous()) * 2, s=x.shape[-2:])


EXACT = {
    "pad with zero channels": (lambda x: functional.pad(x, (0, 0, 0, 0, 2, 2)), 12),
    "pad space": (lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), 8),
    "pad in a circle": (lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"), 8),
    "roll space": (lambda x: torch.roll(x, (1, -1), (2, 3)), 8),
    "flip channels": (lambda x: x.flip(1), 8),
    "flip all": (lambda x: torch.fliplr(torch.flipud(x)), 8),
    "stack and unbind": (stacked, 8),
    "tile": (lambda x: x.tile(1, 2, 1, 1), 16),
    "tile of fewer": (lambda x: x.tile(2, 1), 8),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), 16),
    "repeat interleave": (lambda x: x.repeat_interleave(2, dim=1), 16),
    "repeat interleave of a vector": (
        lambda x: x * x.mean((0, 2, 3)).repeat_interleave(3).view(-1, 3).sum(1)[:, None, None],
        8,
    ),
    "expand and merge": (lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.size(0), -1, *x.shape[2:]), 16),
    "concatenate with a fixed part": (padded_cat, 10),
    "Fourier": (spectrum, 8),
    "Fourier, one dimension": (lambda x: torch.fft.ifft(torch.fft.fft(x, dim=2), dim=2).real, 8),
    "shifted spectrum": (lambda x: torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)).abs(), 8),
    "GLU": (lambda x: functional.glu(x, 1), 4),
    "GLU by hand": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), 4),
    "simple gate": (gated, 4),
    "filled in steps": (filled, 8),
    "movedim": (lambda x: x.movedim(1, -1).tanh().movedim((-1,), (1,)), 8),
    "swapaxes": (lambda x: x.swapaxes(1, 3).tanh().swapaxes(1, 3), 8),
    "moveaxis": (lambda x: torch.moveaxis(torch.moveaxis(x, 1, 0) * 2, 0, 1), 8),
    "grid sample": (lambda x: functional.grid_sample(x, grid_for(x), align_corners=False), 8),
    "triangle": (lambda x: x.tril() + x.triu(1), 8),
    "LSTM gates": (lambda x: gates(x), 2),
    "count of all": (lambda x: x * x.sum((1, 2, 3), keepdim=True), 8),
}


def grid_for(x):
    theta = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.8, 0.1]], dtype=x.dtype).repeat(x.size(0), 1, 1)
    return functional.affine_grid(theta, [x.size(0), 1, *x.shape[2:]], align_corners=False)


def gates(x):
    i, f, o, g = torch.split(x, x.size(1) // 4, dim=1)
    return o.sigmoid() * (f.sigmoid() + i.sigmoid() * g.tanh()).tanh()


@pytest.mark.parametrize("name", EXACT)
def test_channels_go_exactly(name):
    function, width = EXACT[name]
    module = Between(lambda m, x: function(x), (3, 8, width, 4))
    removed, graph = thinned_alike(module, numbers(*IMAGE), numbers(*OTHER))
    assert removed, graph.describe()
    assert module.first.out_channels < 8


PINNED = {
    "roll channels": (lambda x: x.roll(1, 1), 8, "rolled by a distance that the code fixes"),
    "Fourier over channels": (lambda x: torch.fft.fft(x, dim=1).real, 8, "transformed over the channels"),
    "Fourier over all": (lambda x: torch.fft.fftn(x).real, 8, "transformed over the channels"),
    "index": (lambda x: x.index_select(1, torch.tensor([3, 1, 0, 2])), 4, "looked up by an index (index_select"),
    "arange": (lambda x: x * torch.arange(8, dtype=x.dtype)[:, None, None], 8, "coupled to a tensor of fixed size"),
    "triangle of channels": (lambda x: x.permute(0, 2, 3, 1).tril().permute(0, 3, 1, 2), 8, "a diagonal runs along"),
    "sort": (lambda x: x.sort(1).values, 8, "sorted along"),
    "median": (lambda x: x.median(1, keepdim=True).values * x, 8, "reduced over the channels"),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_mixes_channels_pins_them_by_name(name):
    function, width, reason = PINNED[name]
    module = Between(lambda m, x: function(x), (3, 8, width, 4))
    removed, graph = thinned_alike(module, numbers(*IMAGE))
    assert not removed
    assert any(reason in why and "in the model)" in why for why in graph.why_pinned("first.weight"))


SAME_SHAPE = [
    name for name, (_, width) in EXACT.items() if width == 8 and not name.startswith(("pad", "tile", "count"))
]


class Chain(torch.nn.Module):
    """Three of the operations in a row, a residual sum around each that is drawn so, convolutions between them."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        self.functions = [EXACT[draw.choice(SAME_SHAPE)][0] for _ in range(3)]
        self.around = [draw.random() < 0.4 for _ in range(3)]
        self.first = torch.nn.Conv2d(3, 8, 1)
        between = [draw.random() < 0.5 for _ in range(3)]
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(8, 8, 3, padding=1) if each else torch.nn.BatchNorm2d(8) for each in between
        )
        self.last = torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        for function, around, convolution in zip(self.functions, self.around, self.convolutions, strict=True):
            y = convolution(function(x)).tanh()
            x = x + y if around else y
        return self.last(x)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 24))])
def test_chains_of_them_too(seed):
    removed, graph = thinned_alike(Chain(seed), numbers(*IMAGE), numbers(*OTHER))
    assert removed or graph.why_pinned("first.weight")


class Pab(torch.nn.Module):
    """MA-Net's attention over positions; what it gives is cut into channels, height and width, transposed or not."""

    def __init__(self, transposed):
        super().__init__()
        self.first, self.inner, self.last = (
            torch.nn.Conv2d(3, 16, 1),
            torch.nn.Conv2d(16, 4, 1),
            torch.nn.Conv2d(16, 2, 1),
        )
        self.transposed, self.width = transposed, 16

    def forward(self, x):
        x = self.first(x)
        scores = self.inner(x).flatten(2)
        mixed = (scores.transpose(1, 2) @ scores).softmax(-1) @ x.flatten(2).transpose(1, 2)
        mixed = mixed.transpose(1, 2) if self.transposed else mixed
        return self.last(x + mixed.reshape(x.size(0), self.width, *x.shape[2:]))


@pytest.mark.parametrize("transposed", [False, True])
def test_positions_that_are_cut_into_channels_are_pinned_for_another_image_size_cuts_otherwise(transposed):
    """At 2 x 2 pixels the trial finds units that are right there, and wrong at 4 x 4."""
    images = [numbers(2, 3, 2, 2), numbers(3, 3, 2, 2), numbers(2, 3, 4, 4)]
    removed, graph = thinned_alike(Pab(transposed), *images)
    reasons = "".join(graph.why_pinned("first.weight"))
    assert ("the size of the input decides which meet" in reasons) is not transposed
    assert ("first.weight[0]" in removed) is transposed
    assert "inner.weight[0]" in removed


@pytest.mark.parametrize("flat", [lambda y: y.flatten(-2), lambda y: y.transpose(-1, -2).flatten(-2)])
def test_channels_go_that_are_merged_with_a_dimension_of_a_buffer(flat):
    """A spline layer (FastKAN, arXiv 2405.06721): each channel at the points of a grid that stays."""

    class Spline(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, 8), torch.nn.Linear(24, 4)
            self.register_buffer("grid", torch.linspace(-1, 1, 3))

        def forward(self, x):
            return self.last(flat(torch.exp(-((self.first(x)[..., None] - self.grid) ** 2)) * self.first(x)[..., None]))

    module = Spline()
    removed, graph = thinned_alike(module, numbers(5, 3), numbers(2, 3))
    assert "first.weight[0]" in removed, graph.describe()
    assert (module.last.in_features, len(module.grid)) == (15, 3)

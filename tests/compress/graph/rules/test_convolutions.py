"""Convolutions whose weights differ from sample to sample: groups that count samples, not channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph.channels import channel_graph
from tests.compress.thinning.twins import numbers, prepared, thinned_alike

IMAGES = numbers(2, 3, 6, 6), numbers(3, 3, 5, 8), numbers(1, 3, 6, 6)


class BySample(nn.Module):
    """A convolution, a function of what it gives with the weights of a mixture or a style, and another convolution."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.routes, self.style = nn.Linear(8, 4), nn.Linear(8, 8)
        self.experts, self.weight = nn.Parameter(numbers(4, 6, 8, 3, 3)), nn.Parameter(numbers(1, 6, 8, 3, 3))
        self.function = function
        self.__dict__.update(attributes)

    def forward(self, x):
        return self.last(self.function(self, self.first(x).relu()))


def mixed(net, x):
    """CondConv: a mixture of kernels for each sample."""
    b, c, h, w = x.shape
    kernel = torch.einsum("be,eoikl->boikl", net.routes(x.mean((2, 3))).sigmoid(), net.experts)
    kernel = kernel.reshape(b * net.experts.shape[1], c, 3, 3)
    return functional.conv2d(x.reshape(1, b * c, h, w), kernel, groups=b, padding=1).view(b, -1, h, w)


def styled(net, x):
    """StyleGAN2: modulated by a style, demodulated by its length."""
    b, c, h, w = x.shape
    kernel = 0.1 * net.weight * net.style(x.mean((2, 3))).view(b, 1, c, 1, 1)
    kernel = kernel * torch.rsqrt(kernel.pow(2).sum((2, 3, 4)) + 1e-8).view(b, net.out_channel, 1, 1, 1)
    if net.up:
        kernel = kernel.transpose(1, 2).reshape(b * c, net.out_channel, 3, 3)
        y = functional.conv_transpose2d(x.reshape(1, b * c, h, w), kernel, stride=2, groups=b)
    else:
        kernel = kernel.view(b * net.out_channel, c, 3, 3)
        y = functional.conv2d(x.reshape(1, b * c, h, w), kernel, padding=1, groups=b)
    return y.view(b, net.out_channel, *y.shape[2:])


@pytest.mark.slow
def test_a_mixture_of_kernels_for_each_sample():
    removed, _ = thinned_alike(BySample(mixed, unused_parts=("style", "weight")), *IMAGES)
    assert len(removed) == 3


@pytest.mark.slow
@pytest.mark.parametrize("up", [False, True])
def test_kernels_that_a_style_modulates(up):
    net = BySample(styled, out_channel=6, up=up, unused_parts=("routes", "experts"))
    removed, _ = thinned_alike(net, *IMAGES)
    assert len(removed) == 2


class Filters(nn.Module):
    """A filter for each channel of each sample, which a linear layer gives."""

    def __init__(self):
        super().__init__()
        self.first, self.filters, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 72), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x).relu()
        b, c, h, w = x.shape
        kernel = self.filters(x.mean((2, 3))).reshape(b * c, 1, 3, 3)
        return self.last(functional.conv2d(x.reshape(1, b * c, h, w), kernel, groups=b * c, padding=1).view(b, c, h, w))


def test_a_filter_for_each_channel_of_each_sample():
    removed, _ = thinned_alike(Filters(), *IMAGES)
    assert removed == {"first.weight[0]": [1, 4, 7]}


class Siamese(nn.Module):
    """One image is the filter of the other."""

    def __init__(self, depthwise):
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 1), depthwise

    def forward(self, x, z):
        x, z = self.first(x), self.first(z)
        b, c = z.shape[:2]
        large = x.view(1, b * c, *x.shape[2:])
        if self.depthwise:
            return functional.conv2d(large, z.view(b * c, 1, *z.shape[2:]), groups=b * c).sum(1)
        return functional.conv2d(large, z, groups=b)


@pytest.mark.parametrize("depthwise", [True, False])
def test_an_image_as_the_filter_of_another(depthwise):
    images = (numbers(2, 3, 6, 6), numbers(2, 3, 3, 3)), (numbers(3, 3, 7, 6), numbers(3, 3, 2, 2))
    removed, _ = thinned_alike(Siamese(depthwise), *images)
    assert removed == {"first.weight[0]": [1, 4, 7]}


def test_positions_cut_across_channels_are_still_pinned():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 36), nn.Conv2d(9, 2, 1)

        def forward(self, x):  # (9 positions, 36 channels) as (9, 6, 6)
            return self.last(self.first(x).reshape(x.shape[0], 9, 6, x.shape[1] - 3))

    graph = channel_graph(prepared(Crossed()), numbers(2, 9, 5))
    assert graph.why_pinned("first.weight")

"""Channels whose masked value is not zero but a constant: nothing of it may be left behind, or the channel stays."""

import copy

import pytest
import torch
from torch import nn

from compress.thinning.complete import complete_masks
from compress.thinning.thin import put_on, remove_units
from compress.thinning.trials.trial import prunable_graph
from tests.compress.thinning.blocks import Lambda

NONZERO_AT_ZERO = {
    "Sigmoid": nn.Sigmoid,
    "Hardsigmoid": nn.Hardsigmoid,
    "Softplus": nn.Softplus,
    "cosine": lambda: Lambda(torch.cos),
    "plus one": lambda: Lambda(lambda x: x + 1),
}
ZERO_AT_ZERO = {
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "PReLU": lambda: nn.PReLU(6),
    "SiLU": nn.SiLU,
    "Tanh": nn.Tanh,
    "norm": lambda: nn.BatchNorm2d(6),
}
ALL = {**NONZERO_AT_ZERO, **ZERO_AT_ZERO}
READERS = {
    "a convolution with zero padding": lambda: nn.Conv2d(6, 4, 3, padding=1),
    "a norm, then a convolution with zero padding": lambda: nn.Sequential(
        nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
    ),
    "a depthwise convolution, then another": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    ),
    "zero padding by itself, then pooling": lambda: nn.Sequential(
        nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 4)
    ),
    "a transposed convolution": lambda: nn.ConvTranspose2d(6, 4, 2, stride=2),
}


def build(activation, reader):
    """Nothing in it is zero: weights, shifts and running statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), ALL[activation](), reader()).double()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.2)
    return model, torch.randn(2, 3, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("activation", "reader"),
    [(activation, READERS["a convolution with zero padding"]) for activation in ALL]
    + [("Sigmoid", reader) for reader in READERS.values()],
    ids=[*ALL, *(f"Sigmoid and {reader}" for reader in READERS)],
)
def test_a_constant_is_masked_wherever_it_is_read(activation, reader):
    model, image = build(activation, reader)
    mask = torch.ones_like(model[0].weight, dtype=torch.bool)
    mask[[1, 4]] = False
    graph = prunable_graph(model, image)
    completion = complete_masks(graph, {"0.weight": mask}, model)
    masked = copy.deepcopy(model)
    put_on(masked, completion.masks)
    remove_units(model, graph, completion.removed, image)
    assert model[0].out_channels == 4
    for training in (False, True):
        torch.testing.assert_close(model.train(training)(image), masked.train(training)(image), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", NONZERO_AT_ZERO)
def test_a_constant_that_no_weight_reads_pins_its_channel(activation):
    model, image = build(activation, lambda: Lambda(lambda x: x.sum(1)))
    assert "reduced over the channels" in prunable_graph(model, image).why_pinned("0.weight")[0]


@pytest.mark.parametrize("activation", ZERO_AT_ZERO)
def test_zeros_that_no_weight_reads_may_go(activation):
    model, image = build(activation, lambda: Lambda(lambda x: x.sum(1)))
    assert not prunable_graph(model, image).why_pinned("0.weight")
